"""Identities: which pod runs as which node, on this host and on others."""
