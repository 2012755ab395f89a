"""An ext3 image read without mounting it: its bytes become the tree they hold."""
