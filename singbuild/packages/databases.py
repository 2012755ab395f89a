"""All package databases of a tree, read once each."""

from __future__ import annotations

from singbuild.packages import apk, dpkg, python, rpm
from singbuild.packages.package import Found, Package, Tree, distribution


def found(tree: Tree, *, licences: bool = False) -> Found:
    """Return every package of a tree, sorted, and what could not be read.

    licences: also read Debian's copyright files, one per package. Raises
    ImageError for a damaged database.
    """
    distro = distribution(tree)
    all_found = (dpkg.found(tree, distro), rpm.found(tree, distro), apk.found(tree, distro),
                 python.found(tree))  # fmt: skip
    packages = {package for each in all_found for package in each.packages}
    if licences:
        packages = {dpkg.licensed(tree, p) if p.kind == "deb" else p for p in packages}
    return Found(tuple(sorted(packages)), tuple(note for each in all_found for note in each.notes))


def packages(tree: Tree) -> tuple[Package, ...]:
    """Return every package of a tree, sorted by kind, name and version."""
    return found(tree).packages
