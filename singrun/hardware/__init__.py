"""Drivers and libraries of the host that a program in an image needs, such as those of a GPU."""
