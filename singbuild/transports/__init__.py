"""Transports: where images come from and go to, by the scheme of a URI."""
