"""What software a tree holds, from the databases that package managers keep in it.

``package`` says what a package is and how a tree is read; ``dpkg``, ``rpm``,
``apk`` and ``python`` read one database each; ``databases`` asks them all;
``tree`` makes an image or a directory readable; ``licences`` and ``spdx`` write
the bill of materials. Nothing here executes anything of the tree.
"""
