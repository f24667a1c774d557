"""The pod's network: links, addresses, routes, rules, firewall. The only importer of pyroute2.

``model`` says in values what should be there. ``pod`` and ``host`` make it so, in the network namespace of the calling thread.
``rtnetlink`` (pyroute2's messages) and ``firewall`` (with ``nftables``) ask the kernel for it, through the one socket of ``netlink``.
Nothing here knows a pod's name, a node or a control plane.

Callers import ``pod`` and ``host`` where they use them, because pyroute2 takes 15 ms. ``model`` needs nothing of it.
"""
