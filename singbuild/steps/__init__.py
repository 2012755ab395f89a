"""What each step of a build does to the tree, and what goes into it."""
