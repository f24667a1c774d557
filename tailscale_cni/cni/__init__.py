"""The CNI protocol: parse a runtime's request, run its verb, and write the answer.

This package imports only ``errors`` and knows nothing of tailnets. The verbs are passed in.
The specification: https://github.com/containernetworking/cni/blob/v1.3.0/SPEC.md (spec version 1.1.0).
"""
