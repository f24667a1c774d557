"""The tailnet's side of a node: rename it, tag it, delete it, and remember the deletions that are still to be made."""
