"""From a recipe's keywords to what pacman shall do: checked words, URLs filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from singbuild import HostError, RecipeKeyError, Source

BASE = "base"
"""What every image gets: Arch Linux's own least."""
KEYRINGS = (
    Path("/usr/share/pacman/keyrings/archlinux.gpg"),
    Path("/usr/share/keyrings/archlinux.gpg"),
)
MIRROR = "archlinux"  # its name in singbuild.conf
MIRRORS = Path("/etc/pacman.d/mirrorlist")
NAME = re.compile(r"[A-Za-z0-9@_+][\w@.+-]*", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """What shall be installed. repositories: name to URL, no slash at its end."""

    repositories: Mapping[str, str]
    arch: str
    include: tuple[str, ...]
    keyring: Path


def choose(source: Source) -> Choice:
    """Return what the recipe asks for. Raises RecipeKeyError, HostError."""
    words = source.keywords
    mirror = words.get("MirrorURL") or source.mirrors.get(MIRROR) or of_host(MIRRORS)
    if not mirror:
        raise RecipeKeyError(
            "MirrorURL",
            "the recipe names no mirror",
            why=f"Nor has singbuild.conf one of the name {MIRROR}, nor this host a {MIRRORS}.",
            remedy="Add MirrorURL: the directory that has core/os and extra/os, "
            f"or mirror {MIRROR} = URL to singbuild.conf.",
        )
    names = _names(words, "Repositories")
    if not names:
        raise RecipeKeyError("Repositories", "Repositories: names none")
    return Choice(
        repositories={name: _url(mirror, name, source.arch) for name in names},
        arch=source.arch,
        include=_names(words, "Include"),
        keyring=_keyring(words.get("Keyring", "")),
    )


def of_host(mirrors: Path) -> str:
    """Return the first mirror of a list of pacman's, "" without one."""
    if not mirrors.is_file():
        return ""
    match = re.search(r"^\s*Server\s*=\s*(\S+)", mirrors.read_text(errors="replace"), re.M)
    return match[1] if match else ""


def _url(mirror: str, repository: str, arch: str) -> str:
    text = mirror if "$repo" in mirror else f"{mirror.rstrip('/')}/$repo/os/$arch"
    url = text.replace("$repo", repository).replace("$arch", arch)
    if not re.fullmatch(r"(https?|file)://[^\s\"'`\\${}]+", url):
        raise RecipeKeyError(
            "MirrorURL",
            f"MirrorURL: {mirror!r} is not the URL of a mirror",
            remedy="Give http://, https:// or file:// and the directory that has core/os; "
            "$repo and $arch are filled in.",
        )
    return url.rstrip("/")


def _names(words: Mapping[str, str], keyword: str) -> tuple[str, ...]:
    names = re.findall(r"[^\s,]+", words.get(keyword, ""))
    for name in names:
        if not NAME.fullmatch(name):
            raise RecipeKeyError(keyword, f"{keyword}: {name!r} is not a name")
    return tuple(dict.fromkeys(names))


def _keyring(value: str) -> Path:
    """Return the file of keys that may sign packages."""
    places = [Path(value).absolute()] if value else KEYRINGS
    keyring = next((path for path in places if path.is_file()), None)
    if keyring is None and value:
        raise RecipeKeyError("Keyring", f"Keyring: {value}: no such file")
    if keyring is None:
        raise HostError(
            "the keys that sign Arch Linux's packages are not on this host",
            why=f"There is no {' and no '.join(map(str, places))}.",
            remedy="apt-get install archlinux-keyring, or name another file with Keyring.",
        )
    return keyring
