"""Signs the images of a collection, and pushes them to a registry, by singbuild's own commands.

It is done where the pages are written: the key and the passwords stay off the nodes that build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild import command
from singbuild.hub.site import Site, dumped
from singbuild.hub.surroundings import environment
from singbuild.hub.work import Unit


@dataclass(frozen=True)
class Recipients:
    """How new images are handed out. key: an SSH key to sign with; push: oras://HOST/NAMESPACE."""

    key: Path | None = None
    push: str = ""


def distribute(
    site: Site,
    name: str,
    units: Sequence[Unit],
    recipients: Recipients,
    report: Callable[[str], None],
) -> bool:
    """Sign and push the images of a collection that are not yet; return whether all went well."""
    built = [unit for unit in units if site.has(unit.key)]
    went_well = True
    for unit in built:
        if recipients.key and not site.signers(unit.key):
            went_well &= _sign(site, unit, recipients.key, report)
        went_well &= _note_signers(site, unit, report)
        if recipients.push:
            went_well &= _push(site, name, unit, recipients.push, report)
    return went_well


def _sign(site: Site, unit: Unit, key: Path, report: Callable[[str], None]) -> bool:
    image, signature = site.image(unit.key), site.image(unit.key, "sif.sig")
    words = ["sign", "--key", str(key), "--output", str(signature), str(image)]
    return bool(_answer(words, f"{unit.tag}: not signed", report))


def _note_signers(site: Site, unit: Unit, report: Callable[[str], None]) -> bool:
    """Record for the pages who signed an image or built it again, if its signatures are new."""
    store = site.path / "signatures" / f"{unit.key}.json"
    signature = site.image(unit.key, "sif.sig")
    if not signature.exists():
        return True
    if store.exists() and store.stat().st_mtime_ns > signature.stat().st_mtime_ns:
        return True
    words = ["verify", "--json", "--", str(site.image(unit.key))]
    answer = _answer(words, f"{unit.tag}: its signatures are not true", report)
    if not answer:
        return False
    names = ("fingerprint", "key_type", "date", "claim")
    signers = [{name: each[name] for name in names} for each in json.loads(answer)["signatures"]]
    site.write(f"signatures/{unit.key}.json", dumped({"signers": signers}))
    # An equal file is left alone, with a time before the signature's.
    store.touch()
    return True


def _push(site: Site, name: str, unit: Unit, where: str, report: Callable[[str], None]) -> bool:
    """Push an image unless its tag is there already with the same one."""
    # Repositories of a registry have small letters only: OCI distribution specification.
    uri = f"{where.rstrip('/')}/{name.lower()}:{unit.tag}"
    store = f"{name}/pushed.json"
    pushes: dict[str, Any] = site.load(store) or {"images": {}}
    if pushes["images"].get(unit.tag, {}).items() >= {"key": unit.key, "uri": uri}.items():
        return True
    answer = _answer(
        ["push", "-q", str(site.image(unit.key)), uri], f"{unit.tag}: not pushed", report
    )
    if not answer:
        return False
    digest = answer.split()[-1]
    pushes["images"][unit.tag] = {"key": unit.key, "uri": uri, "digest": digest}
    site.write(store, dumped(pushes))
    report(f"{unit.tag}: pushed to {uri}")
    return True


def _answer(words: Sequence[str], failure: str, report: Callable[[str], None]) -> str:
    """Return what one of singbuild's commands prints, "" when it fails, which is reported."""
    lines: list[str] = []
    argv = [sys.executable, "-m", "singbuild", *words]
    done = command.call(argv, env=environment(), on_line=lines.append)
    if done.status:
        report("\n".join([f"{failure} (status {done.status})", *lines]))
        return ""
    return "\n".join(lines)
