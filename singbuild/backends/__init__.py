"""Backends and extensions, which others write: found and loaded by entry point, or scaffolded."""
