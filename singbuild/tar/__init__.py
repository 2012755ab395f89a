"""Tar streams into a directory and out of one; nothing is ever written outside of it."""
