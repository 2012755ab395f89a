"""The builder's part of the commands singularity and apptainer, in their words.

docs/clients.md has the table of what is taken, what is taken without effect, what is refused.
"""
