"""The root file system while it is built: where it lies, and what is done in it and with it."""
