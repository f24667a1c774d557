"""The actors of the tests: network namespaces, a wire, a control plane, peers, hosts, pods and a container runtime.

Each is a context manager, which creates what it needs under a unique name and removes it at the end. The actors know only the
product's artefact, its conflist entry and its documented behaviour; nothing here imports ``tailscale_cni``.
"""
