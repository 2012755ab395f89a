"""A hub: the images of a Git repository, and a site of static files that shows what is in them.

``repository`` reads Git; ``recipes`` finds what to build in a commit; ``safety`` refuses what a
recipe of strangers must not do; ``work`` builds what is new; ``contents`` looks into an image;
``site`` knows the places of all files; ``pages`` writes them, and ``registry`` those that clients
of other registries ask for.
"""
