"""tailscale-cni on a real kubelet, with both containerds."""
