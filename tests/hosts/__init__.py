"""The product on whole hosts: one that a real systemd booted, and one without systemd."""
