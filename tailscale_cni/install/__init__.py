"""The installation on the host: the runtime's network lists, our entry in them, and the record of what is installed."""
