"""Kinds of image files, each a plugin: how a file is recognised, opened as a tree, and written."""
