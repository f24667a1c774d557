"""The few calls to the cluster's API."""
