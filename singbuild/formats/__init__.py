"""Kinds of image files, each a plugin: how a file is told, opened as a tree, and written."""
