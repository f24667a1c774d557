"""JSON over HTTP with requests: one deadline, bounded bodies, no redirects, the host's trust store."""
