"""Records on the host's disk: how they are read and written (``records``, ``files``), and what each of them is."""
