"""From a pod to a running node and back."""
