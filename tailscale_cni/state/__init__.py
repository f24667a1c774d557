"""Records on the host's disk: how they are read and written (``records``, ``files``), and one module per kind of record."""
