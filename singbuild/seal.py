"""The seal: a finished tree becomes one ext3 file, the same bytes every time.

The writer is our own. ``mke2fs -d`` (1.47) cannot be pinned far enough: it
copies the host's inode times, takes over lost+found, splits hard-linked
symbolic links, cuts dates after 2038 and needs 21 s for 20,000 files in one
directory. Writing blocks in order from one reading of the tree is also
quicker, and needs neither a host program nor a privilege beyond reading.

What the bytes depend on: names, types, modes, owners, modification times in
whole seconds (clamped to the epoch), link groups, extended attributes (user,
trusted, security, ACLs), symbolic links' targets, device numbers and file
data; then ``epoch`` and ``free``. A block of zeros is a hole, whether the host
stored it or not.

The digest is the SHA-256 of two others: one of all metadata as ``_Describer``
spells it out, one of all file data, blocks of zeros left out, as it streams
into the image. The UUID is the digest's first half. The hash seed, which has
to be known before the first directory is written, comes from the names alone.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from singbuild.errors import HostError, ImageError
from singbuild.ext3.geometry import (
    BLOCK,
    Geometry,
    fitted,
    indirect_blocks,
    spare_inodes,
)
from singbuild.inventory import Node, check_epoch, inventory
from singbuild.filling import Filling
...
