"""The actors of the tests: network namespaces, a wire, a control plane, peers, hosts, pods and a container runtime.

Each makes what it needs under a name of its own, is a context manager, and takes away what it made. They know the product
by its artefact, its conflist entry and its promises; nothing here imports ``tailscale_cni``.
"""
