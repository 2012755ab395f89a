"""All package databases of a tree, read once each."""

from __future__ import annotations

from singbuild.packages import apk, dpkg, python, rpm
from singbuild.packages.package import Software, Tree, distribution


def software(tree: Tree, *, licences: bool = False) -> Software:
    """Return every package of a tree, sorted, and what could not be read.

    licences: also read Debian's copyright files, one per package. Raises
    ImageError for a damaged database.
    """
    distro = distribution(tree)
    databases = (
        dpkg.software(tree, distro),
        rpm.software(tree, distro),
        apk.software(tree, distro),
        python.software(tree),
    )
    packages = {package for each in databases for package in each.packages}
    if licences:
        packages = {dpkg.with_licence(tree, p) if p.kind == "deb" else p for p in packages}
    notes = tuple(note for each in databases for note in each.notes)
    return Software(tuple(sorted(packages)), notes)
