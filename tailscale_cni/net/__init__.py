"""The pod's network: links, addresses, routes, rules, firewall. The only importer of pyroute2.

``model`` has the wanted configuration as values. ``pod`` and ``host`` apply it in the network namespace of the calling thread.
``rtnetlink`` (pyroute2's messages) and ``firewall`` (with ``nftables``) talk to the kernel through the sockets of ``netlink``.
Nothing here knows a pod's name, a node or a control plane.

Callers import ``pod`` and ``host`` where they use them, because importing pyroute2 takes 15 ms. ``model`` does not import pyroute2.
"""
