"""The tests of the project; ``kit`` has their actors."""
