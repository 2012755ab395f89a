"""The mounts of a launch: rows of a table, what goes into them, and the root they are put in."""
