"""The ext3 writer: a tree on the host becomes a file system in a file.

Bytes only, no I/O: ``geometry`` (where groups, tables and data lie),
``records`` (superblock, descriptors, inodes, journal), ``blockmap``,
``attributes``, ``directory``. Reading the tree: ``inventory``, ``filedata``.
Writing the file: ``target``, ``volume``, ``contents``, ``tables``.

The format is that of "ext4 Data Structures and Algorithms" in the kernel's
documentation, restricted to the features of docs/image-format.md.
"""
