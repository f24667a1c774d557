"""What needs no kernel: seconds."""
