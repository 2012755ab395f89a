"""The variables that a program in an image gets, and why each has its value."""
