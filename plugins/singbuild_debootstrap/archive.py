"""Opens a Debian archive at a mirror: its signed Release file, and the indices that it vouches for.

Layout and fields: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.download import Fetched, NotFoundError, fetch
from singbuild_debootstrap.choice import Choice
from singbuild_debootstrap.signature import LARGEST, detached_text, inline_text

UNPACK: Mapping[str, Callable[[IO[bytes]], Any]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    "": contextlib.closing,
}
FIELD = re.compile(r"[!-9;-~]+")  # deb822(5)
INDEX_LIMIT = 512 << 20  # bytes, unpacked; sid's main has 60 MB


@dataclass(frozen=True)
class Archive:
    """One state of one suite.

    codename: as bookworm; epoch: when the archive got this state, in seconds;
    identity: what tells this state from any other, plain values; read_indices: fetches
    the Packages files of the chosen components, in the archive's order.
    """

    codename: str
    epoch: int
    identity: dict[str, str]
    read_indices: Callable[[], tuple[str, ...]]


Release = Mapping[str, str]
"""The fields of a Release file; those of several lines with their line ends."""


def open_archive(choice: Choice, source: Source) -> Archive:
    """Fetch and verify what the mirror says of itself. Raises SourceError, RecipeKeyError."""
    url = f"{choice.mirror}/dists/{choice.suite}"
    text, sha256 = _signed(url, choice, source)
    release = read_release(text, url)
    date = release.get("Date", "")
    identity = {"sha256": sha256, "date": date}
    identity |= {"version": release["Version"]} if "Version" in release else {}
    _check_release(release, choice, url)
    # A lock asks for this very state, whatever has become of it since.
    if not choice.allow_expired and source.locked.get("release") != identity:
        _check_current(release, url)
    return Archive(
        codename=release.get("Codename", choice.suite),
        epoch=int(_date(date, "Date", url).timestamp()),
        identity=identity,
        read_indices=lambda: tuple(
            _index(f"{component}/binary-{choice.arch}/Packages", release, url, source)
            for component in release["Components"].split()
            if component in choice.components
        ),
    )


def _signed(url: str, choice: Choice, source: Source) -> tuple[bytes, str]:
    """Return the verified text of the Release file, and the digest of the file."""
    try:
        inline = _get(f"{url}/InRelease", source)
    except NotFoundError:
        return _detached(url, choice, source)
    text = inline_text(inline.read(), url, choice.keyring, old_keys=choice.allow_expired)
    return text, inline.sha256


def _detached(url: str, choice: Choice, source: Source) -> tuple[bytes, str]:
    """Return the same from the older form: Release, and Release.gpg beside it."""
    try:
        release = _get(f"{url}/Release", source)
        signature = _get(f"{url}/Release.gpg", source)
    except NotFoundError as error:
        raise SourceError(
            f"{choice.mirror}: has no suite {choice.suite}",
            why=f"{error.what}: {error.why}",
            remedy="Correct OSVersion or MirrorURL; old suites move to an archive of their own.",
        ) from error
    text = detached_text(
        release.read(), signature.read(), url, choice.keyring, old_keys=choice.allow_expired
    )
    return text, release.sha256


def _get(url: str, source: Source) -> Fetched:
    return fetch(url, source.cache, report=source.report, size_limit=LARGEST)


def read_release(text: bytes, url: str) -> Release:
    """Read the fields of a Release file. Raises SourceError for what has none."""
    fields: dict[str, list[str]] = {}
    name = ""
    for line in text.decode(errors="replace").rstrip("\n").split("\n"):
        if line.startswith((" ", "\t")) and name:
            fields[name].append(line.strip())
            continue
        name, colon, value = line.partition(":")
        if not colon or not FIELD.fullmatch(name) or name in fields:
            raise SourceError(f"{url}: has a Release file that makes no sense", why=repr(line[:80]))
        fields[name] = [value.strip()]
    return {name: "\n".join(lines) for name, lines in fields.items()}


def _check_release(release: Release, choice: Choice, url: str) -> None:
    """Refuse a Release file that is signed, but not what was asked for."""
    names = [release.get(field, "") for field in ("Suite", "Codename")]
    if choice.suite not in names:
        raise SourceError(f"{url}: is {' or '.join(filter(None, names))}, not {choice.suite}")
    offered = release.get("Components", "").split()
    for component in choice.components:
        if component not in offered:
            what = f"Components: {choice.suite} at {choice.mirror} has no {component!r}"
            raise RecipeKeyError("Components", what, remedy=f"It has {', '.join(offered)}.")
    if choice.arch not in release.get("Architectures", choice.arch).split():
        has = release["Architectures"]
        raise SourceError(f"{url}: is not for this machine", why=f"it has {has}, not {choice.arch}")


def _check_current(release: Release, url: str) -> None:
    """Refuse a Release file whose Valid-Until is past: somebody may hold the mirror back."""
    until = release.get("Valid-Until", "")
    if until and _date(until, "Valid-Until", url) < datetime.now(UTC):
        raise SourceError(
            f"{url}: was valid until {until}",
            why="Updates that its archive has published since may be missing.",
            remedy="Use a mirror that is kept up to date; for a snapshot or an old suite, "
            "write AllowExpired: yes.",
        )


def _date(text: str, field: str, url: str) -> datetime:
    try:
        date = parsedate_to_datetime(text)
        # Without a zone, as for -0000, it would be taken for local time:
        # https://docs.python.org/3/library/email.utils.html#email.utils.parsedate_to_datetime
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        date.timestamp()
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(f"{url}/Release: its {field} cannot be read", why=str(error)) from error
    return date


def _index(name: str, release: Release, url: str, source: Source) -> str:
    """Return an index, fetched in the smallest form that the archive has."""
    entries = (entry.split() for entry in release.get("SHA256", "").split("\n"))
    digests = {entry[2]: entry[0] for entry in entries if len(entry) == 3}
    for suffix, unpack in UNPACK.items():
        if sha256 := digests.get(name + suffix):
            fetched = _by_hash(name + suffix, sha256, release, url, source)
            return _unpacked(fetched, unpack, f"{url}/{name}{suffix}")
    raise SourceError(f"{url}/Release: gives no SHA-256 for {name}")


def _unpacked(fetched: Fetched, unpack: Callable[[IO[bytes]], IO[bytes]], what: str) -> str:
    try:
        with unpack(io.BytesIO(fetched.read())) as file:
            content = file.read(INDEX_LIMIT + 1)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{what}: cannot be unpacked", why=str(error)) from error
    if len(content) > INDEX_LIMIT:
        raise SourceError(f"{what}: has over {INDEX_LIMIT:,} bytes, unpacked")
    return content.decode(errors="replace")


def _by_hash(name: str, sha256: str, release: Release, url: str, source: Source) -> Fetched:
    """Fetch an index by its digest where the mirror offers that: it works while it is updated."""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise SourceError(f"{url}/Release: {sha256!r} is not a SHA-256")

    def get(place: str) -> Fetched:
        report, limit = source.report, INDEX_LIMIT
        return fetch(
            place, source.cache, report=report, sha256=sha256, size_limit=limit, label=name
        )

    if release.get("Acquire-By-Hash") == "yes":
        with contextlib.suppress(NotFoundError):
            return get(f"{url}/{name.rpartition('/')[0]}/by-hash/SHA256/{sha256}")
    return get(f"{url}/{name}")
