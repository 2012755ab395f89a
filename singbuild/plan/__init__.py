"""What a build will do, with what inputs, and whether this host can: decided before it begins."""
