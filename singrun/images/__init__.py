"""A path becomes a mounted tree: kinds of images, and the ways to mount or unpack each."""
