"""Who says what of an image: signatures made, put where they belong, and checked."""
