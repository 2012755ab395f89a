"""A tree on the host becomes an ext3 image, whose bytes depend on nothing but the tree.

Reading the tree: ``inventory``, ``filedata``. Bytes only, no I/O: ``blockmap``, ``directory``,
``description``. Writing the file: ``target``, ``volume``, ``contents``, ``short_files``,
``tables``. ``seal`` does it all, and is what a build calls.
"""
