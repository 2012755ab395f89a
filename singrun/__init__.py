"""The runtime: enters an image as the calling user and executes a program in place of itself."""

__version__ = "0.1.0"
