"""Finished images: looked into, compared, verified, changed, exported, built twice."""
