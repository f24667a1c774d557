"""The pod's network: links, addresses, routes, rules, firewall. The only importer of pyroute2.

Nothing here knows a pod, a node or a control plane: ``model`` says in values what should be, ``pod`` and
``host`` make it so in the network namespace of the calling thread. Of pyroute2 only the messages are used, and
imported when they are: who does not call these functions must not pay for them.
"""
