"""Alpine's packages: the text database that apk keeps."""

from __future__ import annotations

import base64
import binascii

from singbuild.packages.package import Package, Software, Stanza, Tree, line, number, read, stanzas

DATABASES = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")


def software(tree: Tree, distro: str) -> Software:
    """Return what apk says is installed; one database, if both paths name it."""
    for path in DATABASES:
        data = read(tree, path)
        if data:
            database = path.decode()
            some = (_package(each, distro, database) for each in stanzas(data))
            return Software(tuple(package for package in some if package.name))
    return Software(())


def _package(stanza: Stanza, distro: str, database: str) -> Package:
    def field(key: str) -> str:
        return line(stanza.get(key, ""))

    return Package(
        "apk",
        field("P"),
        field("V"),
        field("A"),
        source=field("o"),
        supplier=field("m"),
        licence=field("L"),
        homepage=field("U"),
        distro=distro,
        database=database,
        digests=_checksum(field("C")),
        size=number(field("I")),
    )


def _checksum(text: str) -> tuple[tuple[str, str], ...]:
    """Read Q1 and base64 of the SHA-1 of the package's control part (apk-package(5))."""
    if not text.startswith("Q1"):
        return ()
    try:
        digest = base64.b64decode(text[2:], validate=True)
    except (binascii.Error, ValueError):
        return ()
    return (("SHA1 of the control part", digest.hex()),) if len(digest) == 20 else ()
