"""RPM's packages: headers in rpm's SQLite database.

The older forms (Berkeley DB up to EL8, ndb of SUSE) are named, not read.
The header's layout is in rpm's docs/manual/format_header; tags in rpmtag.h.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from singbuild import workspace
from singbuild.errors import ImageError
from singbuild.packages.package import LARGEST, Package, Software, Tree, line, number, shown

HOMES = (b"usr/lib/sysimage/rpm", b"var/lib/rpm")
_FOREIGN = {b"Packages": "Berkeley DB", b"Packages.db": "ndb"}
_STRING, _STRINGS, _TRANSLATED, _INT32 = 6, 8, 9, 4
_TAGS = {
    273: "sha256",
    1000: "name",
    1001: "version",
    1002: "release",
    1003: "epoch",
    1009: "size",
    1011: "vendor",
    1014: "licence",
    1015: "packager",
    1020: "url",
    1022: "arch",
    1044: "source",
    5092: "payload",
}
_STEPS = 50_000_000  # of SQLite's machine: minutes; an honest database takes far fewer


def software(tree: Tree, distro: str) -> Software:
    """Return what rpm says is installed, and which databases cannot be read here."""
    packages: list[Package] = []
    notes = []
    for home in HOMES:
        names = {name for name, _ in tree.names(home)}
        if b"rpmdb.sqlite" in names:
            packages = packages or [*_packages(tree, home, distro)]
            continue
        for name in sorted(names & _FOREIGN.keys()):
            notes.append(
                f"{shown([home + b'/' + name])} is an rpm database in the {_FOREIGN[name]} form, "
                "which is not read; its packages are missing here"
            )
    return Software(tuple(packages), tuple(dict.fromkeys(notes)))


def _packages(tree: Tree, home: bytes, distro: str) -> Iterator[Package]:
    database = home + b"/rpmdb.sqlite"
    for blob in _headers(tree, database):
        try:
            package = _package(_fields(blob), distro, database.decode())
        except (ValueError, struct.error) as error:
            raise ImageError(
                f"{shown([database])} holds a damaged header", why=str(error)
            ) from error
        # Imported signing keys are kept as packages of this name.
        if package.name and package.name != "gpg-pubkey":
            yield package


def _headers(tree: Tree, database: bytes) -> Iterator[bytes]:
    """Yield all headers. SQLite reads files, and the log beside them: so it gets copies."""
    with workspace.scratch_directory() as directory:
        copy = directory / "rpmdb.sqlite"
        for suffix in (b"", b"-wal"):
            _copy(tree, database + suffix, Path(f"{copy}{suffix.decode()}"))
        try:
            with closing(sqlite3.connect(f"file:{quote(str(copy))}", uri=True)) as connection:
                yield from _rows(connection)
        except (sqlite3.Error, UnicodeError) as error:
            raise ImageError(f"{shown([database])} cannot be read", why=str(error)) from error


def _rows(connection: sqlite3.Connection) -> Iterator[bytes]:
    """Yield the headers of the table that rpm makes; of the schema nothing else is executed."""
    # The database is an image's: https://www.sqlite.org/security.html, untrusted database files.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.text_factory = bytes
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
    connection.set_progress_handler(lambda: 1, _STEPS)
    # A view and a virtual table have no root page.
    ours = "SELECT 1 FROM sqlite_master WHERE name = 'Packages' AND type = 'table' AND rootpage > 0"
    if not connection.execute(ours).fetchone():
        raise sqlite3.DatabaseError("it has no table of packages")
    connection.set_authorizer(_allowed)
    size = 0
    for (blob,) in connection.execute("SELECT blob FROM Packages"):
        if isinstance(blob, bytes):
            size += len(blob)
            if size > LARGEST:  # rows of a damaged database may share their pages
                raise sqlite3.DatabaseError(f"its headers have over {LARGEST:,} bytes")
            yield blob


def _allowed(action: int, table: str | None, *_more: str | None) -> int:
    """Let a statement read the columns of the table, and execute no function of the schema's."""
    reads = action == sqlite3.SQLITE_READ and table == "Packages"
    return sqlite3.SQLITE_OK if reads or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY


def _copy(tree: Tree, path: bytes, target: Path) -> None:
    size = 0
    with target.open("wb") as file:
        for chunk in tree.chunks(path) or ():
            size += len(chunk)
            if size > LARGEST:
                raise ImageError(f"{shown([path])} has over {LARGEST} bytes")
            file.write(chunk)


def _fields(blob: bytes) -> dict[str, str]:
    """Return the tags of a header that matter here. Raises ValueError for what is no header."""
    count, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * count
    if start + size > len(blob):
        raise ValueError(f"it declares {start + size} bytes and has {len(blob)}")
    store = blob[start : start + size]
    index = struct.iter_unpack(">IIII", blob[8:start])
    # Of two entries of one tag the last counts, as rpm has it for those behind its region; each is
    # one value, or many would be as many copies of a string.
    places = {tag: (kind, offset) for tag, kind, offset, _ in index if tag in _TAGS}
    return {_TAGS[tag]: _value(store, *place) for tag, place in places.items()}


def _value(store: bytes, kind: int, offset: int) -> str:
    """Return a value as text; of several strings the first, which is the untranslated one."""
    if kind == _INT32:
        return str(*struct.unpack_from(">I", store, offset))
    if kind not in (_STRING, _STRINGS, _TRANSLATED) or offset >= len(store):
        raise ValueError(f"a value of type {kind} at {offset}")
    return line(store[offset : store.index(b"\0", offset)].decode(errors="replace"))


def _package(fields: dict[str, str], distro: str, database: str) -> Package:
    version = f"{fields.get('version', '')}-{fields.get('release', '')}"
    epoch = fields.get("epoch", "0")
    digests = {"SHA256 of the header": "sha256", "SHA256 of the payload": "payload"}
    return Package(
        "rpm",
        fields.get("name", ""),
        version if epoch == "0" else f"{epoch}:{version}",
        fields.get("arch", ""),
        source=fields.get("source", ""),
        supplier=fields.get("vendor") or fields.get("packager", ""),
        licence=fields.get("licence", ""),
        homepage=fields.get("url", ""),
        distro=distro,
        database=database,
        digests=tuple((what, fields[tag]) for what, tag in digests.items() if tag in fields),
        size=number(fields.get("size", "")),
    )
