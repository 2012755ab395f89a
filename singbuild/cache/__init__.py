"""What is kept between builds: stages of recipes, and the tree of a build that failed."""
