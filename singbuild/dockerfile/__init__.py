"""Dockerfiles and Containerfiles: from their text to recipes of several stages."""
