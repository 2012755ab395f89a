"""Checks that every package is signed by a key that the recipe names.

``installation`` fetches and pins the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from singbuild import SourceError, command, confine
from singbuild_yum.layout import Layout

SIGNATURE = re.compile(r"V\d \w+/(?P<hash>\w+) signature\b.*: OK$", re.IGNORECASE)
WEAK = ("MD5", "SHA1", "RIPEMD160")


def check_signatures(layout: Layout, packages: Mapping[str, Any]) -> None:
    """Let rpm look at each package with these keys and no others. Raises SourceError."""
    env = command.environment()
    rpmkeys = ["rpmkeys", "--dbpath", str(layout.where / "keyring")]
    for key in layout.keys:
        done = confine([*rpmkeys, "--import", key], layout.where, env=env)
        if done.status:
            raise SourceError(
                "a GPGKey is not a key that rpm understands", why="\n".join(done.tail)
            )
    # Without this level rpm is content with a package that nobody signed.
    check = [*rpmkeys, "--define", "_pkgverify_level all", "--checksig"]
    files = {name: str(layout.package(pin)) for name, pin in packages.items()}
    lines: list[str] = []
    argv = [*check, "-v", *files.values()]
    status = confine(argv, layout.where, env=env, on_line=lines.append).status
    answers = _by_file(lines)
    about = {name: _complaints(answers.get(file, [])) for name, file in files.items()}
    bad = {name: wrong for name, wrong in about.items() if wrong}
    if not bad and not status:
        return
    why = "\n".join(f"{name}: {each}" for name, wrong in bad.items() for each in wrong)
    raise SourceError(
        f"{len(bad)} package{'s are' if len(bad) != 1 else ' is'} not signed by a key of GPGKey",
        why=why or "\n".join(lines[-20:]),
        remedy="Name the key of whoever made the packages, or use a mirror that you trust.",
    )


def _by_file(lines: list[str]) -> dict[str, list[str]]:
    """Return what rpmkeys says of each file: a line with its name, then indented ones."""
    answers: dict[str, list[str]] = {}
    about: list[str] = []
    for line in lines:
        if line.startswith(" "):
            about.append(line.strip())
        elif line.endswith(":"):
            about = answers.setdefault(line[:-1], [])
    return answers


def _complaints(about: list[str]) -> list[str]:
    """Return what speaks against a package; nothing does when a signature over SHA-2 is good."""
    wrong = [line for line in about if not line.endswith((": OK", ": NOTFOUND"))]
    if wrong:
        return wrong
    good = [match for line in about if (match := SIGNATURE.search(line))]
    if any(match["hash"].upper() not in WEAK for match in good):
        return []
    return [f"signed over {match['hash']}, which can be forged" for match in good[:1]] or [
        "no signature"
    ]
