"""Namespaces: leaving the host's, waiting in them, holding them open, joining those of others."""
