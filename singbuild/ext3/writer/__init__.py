"""A tree on the host becomes an ext3 image, whose bytes depend on nothing but the tree.

    seal ─▶ inventory    the nodes: names and metadata, in the order of the bytes
         ─▶ filesystem ─▶ contents ─▶ volume ─▶ target       what the nodes hold
                       │     ▲    own_files, inode_table
                       │  tree_reader ◀── filedata, short_files
                       └▶ tables                             what counts it

Bytes only, no I/O: ``blockmap``, ``directory``, ``description``. A build calls ``seal``;
``singbuild verify`` gives ``filesystem`` another reader (``image_reader``) and another target.
"""
