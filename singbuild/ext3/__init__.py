"""The ext3 file system of an image: ``writer`` makes it of a tree, ``reader`` makes a tree of it.

What both know of the format: ``geometry`` (where groups, tables and data lie),
``records`` (superblock, descriptors, inodes, journal), ``attributes``, and
``boot`` (the launch line in the first block). They compute bytes, without I/O.

The format is that of "ext4 Data Structures and Algorithms" in the kernel's
documentation, restricted to the features of docs/image-format.md.
"""
