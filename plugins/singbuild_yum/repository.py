"""Opens a repository of RPMs at a mirror: repomd.xml, and the indices that it names by digest.

The format is createrepo_c's; there is no other specification of it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from xml.etree import ElementTree

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.compression import zstd
from singbuild.download import Fetched, NotFoundError, Remote, fetch, fetch_all

REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"
USED = ("primary", "filelists", "group", "group_gz", "modules", "updateinfo")  # by dnf
INDEX_LIMIT = 1 << 30  # bytes, unpacked; Fedora's has 150 MB
REPOMD_LIMIT = 16 << 20  # bytes; Fedora's has 6 KB
OPEN: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": zstd.open,
    ".xml": lambda path: path.open("rb"),
}
UNREADABLE = (
    *(OSError, EOFError, KeyError, ValueError, OverflowError, SyntaxError),
    *(lzma.LZMAError, zlib.error, zstd.ZstdError),
)
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """One state of one repository.

    repomd: digest of repomd.xml, which tells this state from any other; epoch: when
    it was made, in seconds; files: path below the repository to the cached file;
    primary: the path of its list of packages.
    """

    name: str
    url: str
    repomd: str
    epoch: int
    files: Mapping[str, Path]
    primary: str

    @property
    def identity(self) -> dict[str, str]:
        """What pins this state."""
        return {"url": self.url, "repomd": self.repomd}


def open_repository(name: str, url: str, source: Source) -> Repository:
    """Fetch what a mirror says of itself. Raises SourceError, RecipeKeyError."""
    place = f"{url}/repodata/repomd.xml"
    try:
        fetched = fetch(place, source.cache, report=source.report, size_limit=REPOMD_LIMIT)
    except NotFoundError as error:
        keyword = {"base": "MirrorURL", "updates": "UpdateURL"}.get(name, "Repositories")
        raise RecipeKeyError(
            keyword,
            f"{keyword}: there is no repository at {url}",
            why=error.what,
            remedy="Name the directory that has repodata.",
        ) from error
    return _read(name, url, fetched, source)


def reopen(name: str, identity: Mapping[str, str], source: Source) -> Repository:
    """Return a repository in the state that it was pinned in. Raises SourceError."""
    place = f"{identity['url']}/repodata/repomd.xml"
    fetched = fetch(place, source.cache, report=source.report, sha256=identity["repomd"])
    return _read(name, identity["url"], fetched, source)


def _read(name: str, url: str, repomd: Fetched, source: Source) -> Repository:
    try:
        # Python's expat, 2.4.1 or later, refuses documents that grow out of bounds.
        root = ElementTree.fromstring(repomd.read())  # noqa: S314
        data = {e.get("type"): _entry(e) for e in root.iter(f"{REPO}data") if e.get("type") in USED}
        primary = data["primary"].url
        epoch = max(int(float(stamp.text or 0)) for stamp in root.iter(f"{REPO}timestamp"))
    except (ElementTree.ParseError, KeyError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{url}/repodata/repomd.xml: cannot be understood", why=f"{error!r}"
        ) from error
    remotes = [Remote(f"{url}/{e.url}", e.sha256, e.size) for e in data.values()]
    label = f"Fetching the index of {name}"
    fetched = fetch_all(remotes, source.cache, report=source.report, label=label)
    files = {e.url: file.path for e, file in zip(data.values(), fetched, strict=True)}
    files["repodata/repomd.xml"] = repomd.path
    return Repository(name, url, repomd.sha256, epoch, files, primary)


def _entry(element: ElementTree.Element) -> Remote:
    """One file of the metadata: path below the repository, digest, size."""
    href = _attribute(element, f"{REPO}location", "href")
    sha256 = _sha256(element.find(f"{REPO}checksum"), href)
    return Remote(inside(href), sha256, max(0, int(element.findtext(f"{REPO}size", "0"))))


def packages(repository: Repository) -> Iterator[dict[str, Any]]:
    """Yield every package: name, version (with epoch unless 0), arch, file, sha256, size in bytes.

    Raises SourceError.
    """
    suffix = PurePosixPath(repository.primary).suffix
    try:
        with OPEN[suffix](repository.files[repository.primary]) as opened:
            yield from _parsed(_Bounded(opened), repository.name)
    except UNREADABLE as error:
        raise SourceError(
            f"{repository.url}/{repository.primary}: cannot be understood", why=f"{error!r}"
        ) from error


def _parsed(file: _Bounded, repository: str) -> Iterator[dict[str, Any]]:
    events = ElementTree.iterparse(file, ["start", "end"])  # noqa: S314 - as above
    root: ElementTree.Element | None = None
    for event, element in events:
        root = element if root is None else root
        if event == "end" and element.tag == f"{COMMON}package":
            yield _package(element, repository)
            # iterparse() keeps all that it has read below the root.
            root.clear()


class _Bounded:
    """An index that is read, up to a limit: a small file may unpack to any size."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.room = file, INDEX_LIMIT

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes. Raises ValueError beyond the limit."""
        piece = self.file.read(size)
        self.room -= len(piece)
        if self.room < 0:
            raise ValueError(f"it has over {INDEX_LIMIT:,} bytes, unpacked")
        return piece


def _package(element: ElementTree.Element, repository: str) -> dict[str, Any]:
    version = element.find(f"{COMMON}version")
    attributes = {} if version is None else version.attrib
    epoch = "" if attributes.get("epoch", "0") == "0" else f"{attributes['epoch']}:"
    file = _attribute(element, f"{COMMON}location", "href")
    return {
        "name": element.findtext(f"{COMMON}name", ""),
        "version": f"{epoch}{attributes['ver']}-{attributes['rel']}",
        "arch": element.findtext(f"{COMMON}arch", ""),
        "repository": repository,
        "file": file,
        "sha256": _sha256(element.find(f"{COMMON}checksum"), file),
        "size": int(_attribute(element, f"{COMMON}size", "package")),
    }


def _attribute(element: ElementTree.Element, tag: str, name: str) -> str:
    child = element.find(tag)
    return "" if child is None else child.attrib[name]


def _sha256(element: ElementTree.Element | None, file: str) -> str:
    if (
        element is None
        or element.get("type") != "sha256"
        or not SHA256.fullmatch(element.text or "")
    ):
        raise ValueError(f"no SHA-256 is given for {file}")
    return element.text or ""


def inside(file: str) -> str:
    """Return a path below a repository; one that leads out of it is hostile. Raises SourceError."""
    parts = PurePosixPath(file).parts
    if not parts or file.startswith("/") or ".." in parts or "\n" in file:
        raise SourceError(f"the repository names a file outside itself: {file!r}")
    return file
