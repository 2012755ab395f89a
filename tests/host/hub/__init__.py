"""A hub that builds: real images of real Git repositories."""
