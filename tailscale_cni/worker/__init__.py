"""A node's processes: start and end them, and query the node through its LocalAPI."""
