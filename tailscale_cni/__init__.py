"""A CNI plugin that makes a Kubernetes pod a Tailscale node."""

__version__ = "0.1.0"
