"""What is asked for by name, such as ``singrun mount``; no launch of a program imports it."""
