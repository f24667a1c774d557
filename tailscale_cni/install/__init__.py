"""Our place on the host: the runtime's lists, our entry in them, and what is installed."""
