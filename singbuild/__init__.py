"""singbuild turns a definition file into one file that holds a whole Linux environment."""

__version__ = "0.1.0"
