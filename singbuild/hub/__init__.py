"""A hub: the images of a Git repository, and a site of static files that shows what is in them.

``repository`` reads Git; ``recipes`` finds what to build in a commit; ``safety`` refuses what a
recipe of strangers must not do; ``work`` builds what is new, started by ``jobs`` or ``slurm``;
``contents`` looks into an image; ``site`` knows the places of all files; ``catalogue`` what pages
tell of all images together; ``pages`` writes them, and ``registry`` and ``shpc`` those that
clients of other registries ask for; ``distribution`` signs and pushes.
"""
