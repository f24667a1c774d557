"""A node's processes: starting and ending them, and asking the node through its LocalAPI."""
