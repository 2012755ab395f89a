"""Opens a Debian archive at a mirror: its signed Release file, and the indices that it vouches for.

Layout and fields: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from debian.deb822 import Deb822, Release

from singbuild import RecipeKeyError, Source, SourceError, command
from singbuild.download import Fetched, NotFoundError, fetch
from singbuild_debootstrap.choice import Choice

UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    "": bytes,
}
RELEASE_LIMIT = 16 << 20  # bytes; Debian's has 150 KB
INDEX_LIMIT = 256 << 20  # bytes; sid's main has 10 MB compressed


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


def open_archive(choice: Choice, source: Source) -> Archive:
    """Fetch and verify what the mirror says of itself. Raises SourceError, RecipeKeyError."""
    url = f"{choice.mirror}/dists/{choice.suite}"
    text, fetched = _signed(url, choice, source)
    release = Release(text)
    _check_release(release, choice, source, url)
    identity = {"sha256": fetched.sha256, "date": release.get("Date", "")}
    return Archive(
        codename=release.get("Codename", choice.suite),
        epoch=int(_date(release, "Date", url).timestamp()),
        identity=identity | ({"version": release["Version"]} if "Version" in release else {}),
        read_indices=lambda: tuple(
            _index(f"{component}/binary-{choice.arch}/Packages", release, url, source)
            for component in release["Components"].split()
            if component in choice.components
        ),
    )


def _signed(url: str, choice: Choice, source: Source) -> tuple[str, Fetched]:
    """Return the text of the Release file, its signature verified, and the file."""
    try:
        inline = _get(f"{url}/InRelease", source)
    except NotFoundError:
        return _detached(url, choice, source)
    text = inline.path.read_text(errors="replace")
    _verify([inline.path], url, choice)
    return _signed_text(text, url), inline


def _detached(url: str, choice: Choice, source: Source) -> tuple[str, Fetched]:
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
    _verify([signature.path, release.path], url, choice)
    return release.path.read_text(errors="replace"), release


def _get(url: str, source: Source) -> Fetched:
    return fetch(url, source.cache, report=source.report, size_limit=RELEASE_LIMIT)


def _signed_text(text: str, url: str) -> str:
    """Return the signed part of an InRelease file, which must be all that is in it."""
    begin, end = "-----BEGIN PGP SIGNED MESSAGE-----\n", "-----END PGP SIGNATURE-----"
    if not text.startswith(begin) or not text.rstrip().endswith(end) or text.count(begin) != 1:
        raise SourceError(f"{url}/InRelease: holds more than one signed text")
    _, lines, _ = Deb822.split_gpg_and_payload(line.encode() for line in text.splitlines())
    return "\n".join(line.decode() for line in lines)


def _verify(files: list[Path], url: str, choice: Choice) -> None:
    """Let gpgv(1) check a signature. A key may have expired since: old suites stay signed by it."""
    words = ["gpgv", "--status-fd", "1", "--ignore-time-conflict", "--keyring"]
    lines: list[str] = []
    command.call([*words, choice.keyring, *files], on_line=lines.append)
    said = {said[1]: said[2:] for said in map(str.split, lines) if said[:1] == ["[GNUPG:]"]}
    if said.keys() & {"GOODSIG", "EXPKEYSIG", "EXPSIG"} and "BADSIG" not in said:
        return
    if "BADSIG" in said:
        why = "the signature does not fit the text: somebody changed one of them"
    elif "NO_PUBKEY" in said:
        why = f"it is signed with the key {said['NO_PUBKEY'][0]}, which is not in {choice.keyring}"
    else:
        why = (
            "\n".join(line for line in lines if line.startswith("gpgv:")) or "there is no signature"
        )
    raise SourceError(
        f"{url}: its signature cannot be verified",
        why=why,
        remedy="Use a mirror that you trust, or name the file of its keys with Keyring.",
    )


def _check_release(release: Release, choice: Choice, source: Source, url: str) -> None:
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
    if "Valid-Until" in release and _date(release, "Valid-Until", url) < datetime.now(UTC):
        source.report.warn(f"{url}: was valid until {release['Valid-Until']}; packages may be old")


def _date(release: Release, field: str, url: str) -> datetime:
    try:
        date = parsedate_to_datetime(release.get(field, ""))
    except ValueError as error:
        raise SourceError(f"{url}/Release: its {field} cannot be read", why=str(error)) from error
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _index(name: str, release: Release, url: str, source: Source) -> str:
    """Return an index, fetched in the smallest form that the archive has."""
    known = {entry["name"]: entry for entry in release.get("SHA256", [])}
    for suffix, unpack in UNPACK.items():
        if entry := known.get(name + suffix):
            fetched = _by_hash(name + suffix, entry["sha256"], release, url, source)
            return unpack(fetched.path.read_bytes()).decode(errors="replace")
    raise SourceError(f"{url}/Release: gives no SHA-256 for {name}")


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
