"""Debian's packages: dpkg's status file, or one file per package (distroless images)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from singbuild.packages.licences import debian
from singbuild.packages.package import Package, Software, Stanza, Tree, line, number, read, stanzas

STATUS = b"var/lib/dpkg/status"
STATUS_D = b"var/lib/dpkg/status.d"


def software(tree: Tree, distro: str) -> Software:
    """Return what dpkg says is installed."""
    data = read(tree, STATUS) or b""
    packages = [
        _package(stanza, distro, STATUS)
        for stanza in stanzas(data)
        # A removed package stays as "deinstall ok config-files": dpkg(1), "Package states".
        if stanza.get("Status", "").endswith(" installed")
    ]
    packages += [_package(stanza, distro, path) for path, stanza in _single(tree)]
    return Software(tuple(package for package in packages if package.name))


def with_licence(tree: Tree, package: Package) -> Package:
    """Return the package with what its machine-readable copyright file declares, if it has one."""
    path = b"usr/share/doc/%b/copyright" % package.name.encode()
    data = read(tree, path) if "/" not in package.name else None
    if not data or not data.lstrip().startswith(b"Format:"):
        return package
    return replace(package, licence=debian(each.get("License", "") for each in stanzas(data)))


def _single(tree: Tree) -> Iterator[tuple[bytes, Stanza]]:
    for name, directory in tree.names(STATUS_D):
        if not directory and not name.endswith(b".md5sums"):
            path = STATUS_D + b"/" + name
            for stanza in stanzas(read(tree, path) or b""):
                yield path, stanza


def _package(stanza: Stanza, distro: str, database: bytes) -> Package:
    def field(key: str) -> str:
        return line(stanza.get(key, ""))

    return Package(
        "deb",
        field("Package"),
        field("Version"),
        field("Architecture"),
        # "Source: name (version)" where both differ.
        source=field("Source").partition(" ")[0] or field("Package"),
        supplier=field("Maintainer"),
        homepage=field("Homepage"),
        distro=distro,
        database=line(database.decode(errors="replace")),
        size=number(field("Installed-Size")) << 10,
    )
