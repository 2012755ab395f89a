"""The ext3 file system as bytes: pure descriptions, no I/O.

geometry: where groups, tables and data lie. records: superblock, descriptors,
inodes, journal. directory: names. attributes: extended attributes. blockmap:
which blocks hold a file. All of it follows "ext4 Data Structures and
Algorithms" in the kernel's documentation, restricted to the features of
docs/image-format.md.
"""
