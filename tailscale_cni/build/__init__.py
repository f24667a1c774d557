"""Which build this is, and its files on the host."""
