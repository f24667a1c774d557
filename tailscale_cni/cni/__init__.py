"""The CNI protocol and nothing else: what a runtime asks, and how it is answered.

This package knows no pod, no tailnet and no other part of ours but ``errors``; what a verb does is passed in.
The specification: https://github.com/containernetworking/cni/blob/v1.3.0/SPEC.md (spec version 1.1.0).
"""
