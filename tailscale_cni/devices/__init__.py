"""A node's device in the tailnet: rename, tag and delete it, and queue deletions."""
