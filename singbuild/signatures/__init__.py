"""Signatures of images: made, put into the image or beside it, and verified."""
