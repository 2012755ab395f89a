"""Checks that every package is signed by a key that the recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from singbuild import SourceError, command
from singbuild_yum.layout import Layout


def check_signatures(layout: Layout, packages: Mapping[str, Any]) -> None:
    """Let rpm look at each package with these keys and no others. Raises SourceError."""
    rpmkeys = ["rpmkeys", "--dbpath", str(layout.where / "keyring")]
    for key in layout.keys:
        done = command.call([*rpmkeys, "--import", key])
        if done.status:
            raise SourceError(
                "a GPGKey is not a key that rpm understands", why="\n".join(done.tail)
            )
    # Without this level rpm is content with a package that nobody signed.
    check = [*rpmkeys, "--define", "_pkgverify_level all", "--checksig"]
    files = {name: str(layout.package(pin)) for name, pin in packages.items()}
    if not command.call([*check, *files.values()]).status:
        return
    bad = {n: d for n, f in files.items() if (d := command.call([*check, "-v", f])).status}
    why = "\n".join(f"{n}: {line.strip()}" for n, d in bad.items() for line in _reasons(d.tail))
    raise SourceError(
        f"{len(bad)} package{'s are' if len(bad) > 1 else ' is'} not signed by a key of GPGKey",
        why=why,
        remedy="Name the key of whoever made the packages, or use a mirror that you trust.",
    )


def _reasons(lines: tuple[str, ...]) -> list[str]:
    """The lines about signatures that are there and are not good."""
    about = [line for line in lines if "ignature" in line]
    return [line for line in about if not line.endswith((": OK", ": NOTFOUND"))] or ["no signature"]
