"""From a recipe's keywords to what debootstrap shall do: checked words, a mirror, a keyring.

What a suite needs is asked of the host's own debootstrap: of the script that it has for it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from singbuild import HostError, RecipeKeyError, Source, SourceError, command, is_yes

SCRIPTS = Path("/usr/share/debootstrap/scripts")
ARCHITECTURES = {  # uname -m: Debian's name, /usr/share/dpkg/cputable
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "armel",
    "armv7l": "armhf",
    "i686": "i386",
    "loongarch64": "loong64",
    "mips64": "mips64el",
    "ppc64le": "ppc64el",
}
# The functions that debootstrap has before it reads a suite's script, cut down to
# answering what the script asks for.
ASK = r"""
doing_variant() { [ "$1" = "$VARIANT" ]; }
in_path() { command -v "$1" >/dev/null; }
default_mirror() { echo "mirror $1"; }
keyring() { echo "keyring $1"; }
variants() { echo "variants $*"; }
mirror_style() { :; }
download_style() { :; }
finddebs_style() { :; }
force_md5() { :; }
info() { :; }
warning() { :; }
error() { shift 2; echo "error $(printf "$@")"; exit 0; }
get_debs() { case $2 in required) echo "$REQUIRED" ;; important) echo "$IMPORTANT" ;; esac; }
. "$SCRIPT"
[ "$CODENAME" ] || exit 0
work_out_debs
echo required $required
echo base $base
echo excluded $EXCLUDE_DEPENDENCY
"""
FIELDS = ("REPO_URI", "RELEASE", "CODENAME", "SUITE", "ORIGIN")
WORD = re.compile("[A-Za-z0-9][A-Za-z0-9.+_-]*")

KEYRING_PACKAGES = {"ubuntu-archive-keyring": "ubuntu-keyring, on Debian ubuntu-archive-keyring"}
"""The packages of keyrings, by the file's name, where theirs is another."""


@dataclass(frozen=True)
class Choice:
    """What shall be installed, in debootstrap's and Debian's words. mirror: no slash at its end.

    allow_expired: take what was valid, or signed by a key that was, until some time ago.
    """

    suite: str
    arch: str
    components: tuple[str, ...]
    variant: str
    include: tuple[str, ...]
    keyring: Path
    mirror: str
    allow_expired: bool = False


def choose(source: Source) -> Choice:
    """Return what the recipe asks for, with what the host knows where the recipe is silent.

    Raises RecipeKeyError, HostError, SourceError.
    """
    words = source.keywords
    suite = _suite(words["OSVersion"])
    arch = ARCHITECTURES.get(source.arch, source.arch)
    variant = words.get("Variant", "minbase")
    answers = ask(suite, arch, "standard")
    known_variants = ["standard" if v == "-" else v for v in answers.get("variants", ["-"])]
    # That one wants to be executed by fakechroot(1), which is no part of a build.
    if variant not in known_variants or variant == "fakechroot":
        offered = ", ".join(v for v in known_variants if v != "fakechroot")
        raise RecipeKeyError(
            "Variant",
            f"Variant: debootstrap has no {variant!r} of {suite}",
            remedy=f"Take one of {offered}.",
        )
    return Choice(
        suite=suite,
        arch=arch,
        components=_words(words, "Components", "main"),
        variant=variant,
        include=_words(words, "Include", ""),
        keyring=_keyring(words.get("Keyring", ""), answers),
        mirror=_checked_mirror(words["MirrorURL"])
        if "MirrorURL" in words
        else _mirror(suite, answers, source),
        allow_expired=is_yes(words, "AllowExpired"),
    )


def check(source: Source) -> None:
    """Refuse an unknown suite or keyring, where debootstrap is installed; others can plan."""
    if SCRIPTS.is_dir():
        suite = _suite(source.keywords["OSVersion"])
        answers = ask(suite, ARCHITECTURES.get(source.arch, source.arch), "standard")
        _keyring(source.keywords.get("Keyring", ""), answers)


def ask(suite: str, arch: str, variant: str, **more: str) -> dict[str, list[str]]:
    """Return what the suite's script says: mirror, keyring, variants; with CODENAME also packages.

    more: CODENAME, MIRRORS, and the names of the packages of priority REQUIRED and
    IMPORTANT, which its function work_out_debs looks at. Raises HostError.
    """
    special = SCRIPTS / f"{suite}.{variant}"
    variables = {
        "SCRIPT": str(special if special.exists() else SCRIPTS / suite),
        "DEBOOTSTRAP_DIR": str(SCRIPTS.parent),
        "SUITE": suite,
        "ARCH": arch,
        "VARIANT": "-" if variant == "standard" else variant,
    }
    lines: list[str] = []
    env = command.environment(variables | more)
    command.run(["sh", "-c", ASK], env=env, on_line=lines.append)
    answers = {head: rest.split() for head, _, rest in (line.partition(" ") for line in lines)}
    if "error" in answers:
        raise HostError(f"debootstrap cannot install {suite}", why=" ".join(answers["error"]))
    return answers


def script(suite: str) -> str:
    """Return the text of debootstrap's script for a suite."""
    return (SCRIPTS / suite).read_text()


def _suite(name: str) -> str:
    """Return a suite that this host's debootstrap has a script for."""
    if not SCRIPTS.is_dir():
        raise HostError(f"debootstrap is not on this host: there is no {SCRIPTS}")
    suites = {
        p.name for p in SCRIPTS.iterdir() if "." not in p.name and not p.name.endswith("-common")
    }
    suite = name.lower()
    if suite not in suites:
        near = difflib.get_close_matches(suite, sorted(suites), n=3, cutoff=0.7)
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise RecipeKeyError(
            "OSVersion",
            f"OSVersion: this host's debootstrap knows no suite {name!r}",
            remedy=f"{guess}A newer suite needs a newer debootstrap.",
        )
    return suite


def _words(keywords: Mapping[str, str], keyword: str, default: str) -> tuple[str, ...]:
    """Split a list of names; debootstrap would hand them to a shell, so nothing else passes."""
    words = re.findall(r"[^\s,]+", keywords.get(keyword, default))
    for word in words:
        if not WORD.fullmatch(word):
            raise RecipeKeyError(keyword, f"{keyword}: {word!r} is not a name")
    return tuple(dict.fromkeys(words))


def _keyring(value: str, answers: Mapping[str, list[str]]) -> Path:
    """Return the file of keys that may sign the archive: the recipe's, else the suite's own."""
    if not value and "keyring" not in answers:
        raise RecipeKeyError(
            "Keyring",
            "debootstrap knows no keys for this suite",
            remedy="Add Keyring: the file of the keys that sign its archive.",
        )
    path = Path(value or answers["keyring"][0]).absolute()
    if not path.is_file():
        if value:
            raise RecipeKeyError("Keyring", f"Keyring: {value}: no such file")
        package = KEYRING_PACKAGES.get(path.stem, path.stem)
        raise HostError(
            f"the keys that sign this suite are not on this host: {path}",
            remedy=f"Install the package that has it ({package}), "
            "or copy the file from such a system and name it with Keyring.\n"
            "Compare what `gpg --show-keys FILE` prints with the fingerprint that the "
            "distribution publishes.",
        )
    if path.read_bytes()[:10] == b"-----BEGIN":
        raise RecipeKeyError(
            "Keyring",
            f"Keyring: {value or path}: is ASCII-armoured, which gpgv cannot read",
            remedy=f"Convert it: gpg --dearmor < {path} > {path.stem}.gpg",
        )
    return path


def _checked_mirror(url: str) -> str:
    if not re.fullmatch(r"(https?|file)://[^\s\"'`$\\]+", url):
        raise RecipeKeyError(
            "MirrorURL",
            f"MirrorURL: {url!r} is not the URL of an archive",
            remedy="Give http://, https:// or file:// and the directory that has dists and pool.",
        )
    return url.rstrip("/")


def _mirror(suite: str, answers: Mapping[str, list[str]], source: Source) -> str:
    """Return the distribution's configured mirror, else that of the host's apt, else debootstrap's.

    The distribution is the one whose keys sign the suite, as debian in
    debian-archive-keyring.gpg: "stable" of some vendor's archive is not Debian's.
    """
    distribution = Path(answers.get("keyring", [""])[0]).name.split("-")[0]
    if configured := source.mirrors.get(distribution, ""):
        return configured.rstrip("/")
    ours = [t for t in _configured(source.cache) if t["ORIGIN"].lower() == distribution]
    exact = [t for t in ours if suite in (t["RELEASE"], t["CODENAME"], t["SUITE"])]
    # Another suite of the same distribution; "bookworm-security" has no script of its own.
    others = [t for t in ours if (SCRIPTS / t["RELEASE"]).exists()]
    for target in exact + others:
        return target["REPO_URI"]
    return (answers.get("mirror") or [_built_in()])[0].rstrip("/")


def _configured(cache: Path) -> Iterable[dict[str, str]]:
    """Yield the sources of the host's apt that other programs can use, too.

    cache: where apt may keep its index of packages; hosts that keep none of their own
    would have it made anew, in a second.
    """
    if not command.which("apt-get"):
        return
    form = "\t".join(f"$({field})" for field in FIELDS)
    options = [f"-oDir::Cache::{name}={cache / name}.bin" for name in ("pkgcache", "srcpkgcache")]
    argv = ["apt-get", *options, "indextargets", "--format", form, "Created-By: Packages"]
    for line in command.output(argv).splitlines():
        target = dict(zip(FIELDS, line.split("\t"), strict=False))
        uri = re.sub("^file:/+", "file:///", target.get("REPO_URI", "")).rstrip("/")
        if uri.startswith(("http://", "https://", "file:///")) and len(target) == len(FIELDS):
            yield target | {"REPO_URI": uri}


def _built_in() -> str:
    """Return the mirror that debootstrap falls back on."""
    program = command.which("debootstrap")
    text = Path(program).read_text(errors="replace") if program else ""
    match = re.search(r'^DEF_MIRROR="([^"]+)"', text, re.M)
    if not match:
        raise SourceError(
            "no mirror is known for this suite", remedy="Add MirrorURL to the recipe."
        )
    return match[1]
