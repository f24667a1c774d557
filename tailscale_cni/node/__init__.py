"""A node's life: enroll a pod, start, configure, repair and upgrade its node, and tear it down."""
