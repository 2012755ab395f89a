"""From a recipe's keywords to what dnf shall do: checked words, URLs filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from singbuild import RecipeKeyError, Source, is_yes
from singbuild.download import Remote, is_open_line

# uname(2) says armv7l, without the h of hard float that Fedora's packages of armhfp are for:
# https://github.com/rpm-software-management/dnf/blob/master/dnf/arch.py
BASEARCH = {"i386": "i386", "i486": "i386", "i586": "i386", "i686": "i386", "armv7l": "armhfp"}
SHA256 = re.compile("[0-9A-Fa-f]{64}")
BASE = ("/etc/redhat-release", "/bin/sh", "coreutils")
"""What every image gets: a release, a shell, the commands that %post takes for granted."""

KEY_FILES = {  # a word of a mirror's URL; the name of the key's file in the distribution
    "alma": "RPM-GPG-KEY-AlmaLinux-{version}",
    "rocky": "RPM-GPG-KEY-Rocky-{version}",
    "centos": "RPM-GPG-KEY-CentOS-{version}",
    "fedora": "RPM-GPG-KEY-fedora-{version}-primary",
}
SPEC = re.compile(r"(@\^?|/)?[A-Za-z0-9_][\w.+:*?\[\]~^/-]*", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
OPTION = re.compile(r"([\w*-]+\.)?(?P<name>\w+)=\S*", re.ASCII)
OURS = {
    *("gpgcheck", "localpkg_gpgcheck", "gpgkey", "plugins", "pluginpath", "reposdir", "varsdir"),
    *("installroot", "cachedir", "persistdir", "logdir", "baseurl", "mirrorlist", "metalink"),
}
"""Options that a recipe sets by keywords, or that keep the host out."""


@dataclass(frozen=True)
class Choice:
    """What shall be installed. repositories: name to URL, no slash at its end."""

    repositories: Mapping[str, str]
    releasever: str
    basearch: str
    include: tuple[str, ...]
    excludes: tuple[str, ...]
    options: tuple[str, ...]
    gpgcheck: bool
    keys: tuple[Remote, ...]


def choose(source: Source, *, keys_are_known: bool = False) -> Choice:
    """Return what the recipe asks for. Raises RecipeKeyError.

    keys_are_known: digests of keys are not asked for.
    """
    words = source.keywords
    basearch = BASEARCH.get(source.arch, source.arch)
    for keyword in ("OSVersion", "Releasever"):
        if not NAME.fullmatch(words.get(keyword, "7")):
            raise RecipeKeyError(keyword, f"{keyword}: {words[keyword]!r} is not a release")
    releasever = words.get("Releasever", words["OSVersion"])
    variables = {
        "%{osversion}": words["OSVersion"],
        "%osversion": words["OSVersion"],
        "%{basearch}": basearch,
        "$releasever": releasever,
        "$basearch": basearch,
    }
    gpgcheck = is_yes({**words, "GPGCheck": words.get("GPGCheck") or "yes"}, "GPGCheck")
    return Choice(
        repositories=_repositories(words, variables),
        releasever=releasever,
        basearch=basearch,
        include=_specs(words, "Include"),
        excludes=_specs(words, "Excludes"),
        options=_options(words.get("SetOpt", "")),
        gpgcheck=gpgcheck,
        keys=_keys(words, variables, None if keys_are_known else source.locked.get("keys", {}))
        if gpgcheck
        else (),
    )


def _repositories(words: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    urls = {"base": _url("MirrorURL", words["MirrorURL"], variables)}
    if "UpdateURL" in words:
        urls["updates"] = _url("UpdateURL", words["UpdateURL"], variables)
    for word in _split(words, "Repositories"):
        name, _, url = word.partition("=")
        if not NAME.fullmatch(name) or name in urls or name == "main":
            why = "is there already" if name in urls else "is not a name"
            raise RecipeKeyError(
                "Repositories", f"Repositories: {name!r} {why}", remedy="Write epel=URL extras=URL."
            )
        urls[name] = _url("Repositories", url, variables)
    return urls


def _url(keyword: str, text: str, variables: Mapping[str, str]) -> str:
    url = _filled(text, variables)
    if not re.fullmatch(r"(https?|file)://[^\s\"'`\\$%{}]+", url):
        raise RecipeKeyError(
            keyword,
            f"{keyword}: {url!r} is not the URL of a repository",
            remedy="Give http://, https:// or file:// and the directory that has repodata. "
            "%{OSVERSION} and %{BASEARCH} are filled in.",
        )
    return url.rstrip("/")


def _filled(text: str, variables: Mapping[str, str]) -> str:
    names = "|".join(map(re.escape, variables))
    return re.sub(names, lambda match: variables[match[0].lower()], text, flags=re.I)


def _keys(
    words: Mapping[str, str], variables: Mapping[str, str], locked: object
) -> tuple[Remote, ...]:
    """Return the keys. A digest is the recipe's; for one by plain http without, the lock's."""
    keyword = "GPGKey" if "GPGKey" in words else "GPG"
    if keyword not in words:
        raise RecipeKeyError(
            "GPGKey",
            "the recipe names no key to check the packages' signatures with",
            why="Singularity and Apptainer install them unchecked.",
            remedy=f"Add GPGKey: path or https URL of the key{_key_file(words)}.\n"
            "Compare what `gpg --show-keys FILE` prints with the fingerprint that the "
            "distribution publishes.\nGPGCheck: no installs what nobody checked.",
        )
    return tuple(_key(_filled(word, variables), locked) for word in _split(words, keyword))


def _key_file(words: Mapping[str, str]) -> str:
    """Return where the key of the recipe's distribution is, as the end of a sentence; else ""."""
    if "suse" in words["MirrorURL"].lower():
        return ": SUSE's repositories have it as repodata/repomd.xml.key"
    for word, file in KEY_FILES.items():
        if word in words["MirrorURL"].lower():
            place = file.format(version=words["OSVersion"].partition(".")[0])
            return f"; such a system has it as /etc/pki/rpm-gpg/{place}"
    return ""


def _key(word: str, locked: object) -> Remote:
    url, mark, sha256 = word.partition("#sha256=")
    if mark and not SHA256.fullmatch(sha256):
        raise RecipeKeyError("GPGKey", f"GPGKey: {sha256!r} is not 64 hexadecimal digits")
    if not mark and locked is not None and is_open_line(url):
        sha256 = str(locked.get(url, "")) if isinstance(locked, Mapping) else ""
        if not SHA256.fullmatch(sha256):
            raise RecipeKeyError(
                "GPGKey",
                f"GPGKey: {url} comes over plain http",
                why="Anybody on the way can put another key in its place, and packages behind it.",
                remedy="Name a file of this host that you have looked at, or an https URL, "
                "or write the digest behind it: #sha256=DIGITS.",
            )
    return Remote(url, sha256.lower())


def _specs(words: Mapping[str, str], keyword: str) -> tuple[str, ...]:
    """Split a list of packages; options, URLs and files of the host are none."""
    specs = _split(words, keyword)
    for spec in specs:
        if not SPEC.fullmatch(spec) or "://" in spec or spec.endswith(".rpm"):
            raise RecipeKeyError(
                keyword,
                f"{keyword}: {spec!r} is not a package of a repository",
                remedy="Write names, /files that packages have, or @groups.",
            )
    return specs


def _options(text: str) -> tuple[str, ...]:
    for word in text.split():
        match = OPTION.fullmatch(word)
        if not match or match["name"] in OURS:
            raise RecipeKeyError(
                "SetOpt",
                f"SetOpt: {word!r} " + ("is not for a recipe to set" if match else "is no option"),
                remedy="Write NAME=VALUE; whether signatures are checked says GPGCheck.",
            )
    return tuple(text.split())


def _split(words: Mapping[str, str], keyword: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"[^\s,]+", words.get(keyword, ""))))
