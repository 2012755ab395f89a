"""Signatures of image files by SSH keys: their bytes, what they sign, whose they are."""
