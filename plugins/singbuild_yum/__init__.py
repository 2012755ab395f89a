"""Bootstrap: yum, or dnf. Enterprise Linux, Fedora and their relatives from their repositories.

    resolve     repomd.xml ─▶ indices, keys ─▶ the host's dnf solves ─▶ exact packages (pins)
    bootstrap   packages, checked ─▶ signatures, checked ─▶ local repositories ─▶ the host's dnf

All downloading is done here, once, in parallel and into a cache; dnf sees only
directories of this host and installs what was pinned, whatever mirrors do meanwhile.
"""

from __future__ import annotations

from singbuild_yum import dnf
from singbuild_yum.backend import RpmBackend

backend = RpmBackend(dnf)
