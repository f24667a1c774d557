"""Which pod is which node, on this host and on others."""
