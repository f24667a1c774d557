"""The pod's network: links, addresses, routes, rules, firewall. The only importer of pyroute2.

Nothing here knows a pod, a node or a control plane: ``model`` says in values what should be, ``pod`` and
``host`` make it so in the network namespace of the calling thread. pyroute2 takes a tenth of a second to
import; who does not call these functions must not pay for it, so nothing is imported before it is used.
"""
