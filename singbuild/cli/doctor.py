"""``singbuild doctor``: how builds can work on this host, and what the better ways need."""

from __future__ import annotations

import os

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import document, json_option
from singbuild.console.sizes import binary

WIDTH = 8  # of the first column: that of singrun doctor


@click.command("doctor", cls=Command, examples=("singbuild doctor", "singbuild doctor --json"))
@json_option
def doctor(as_json: bool) -> int:
    """Tell whether you can build here, in which mode, and what each other mode needs.

    Ends with 0 when a build can work, else with 5.
    """
    from singbuild.backends.extensions import GROUP
    from singbuild.entry_points import installed
    from singbuild.errors import HostError
    from singbuild.privilege.modes import PROBES, choose

    reasons = {mode: probe() for mode, probe in PROBES.items()}
    try:
        choice = choose()
    except HostError:
        choice = None
    places = _places()
    sites = [f"{each.name} ({each.distribution} {each.version})" for each in installed(GROUP)]
    if as_json:
        modes = {
            mode: {"works": not lacks, "missing": [vars(each) for each in lacks]}
            for mode, lacks in reasons.items()
        }
        document(
            "doctor",
            chosen=choice and choice.mode,
            modes=modes,
            directories=places,
            extensions=sites,
        )
        return 0 if choice else HostError.status
    if choice:
        print(f"{'ok':{WIDTH}} You can build here, in the mode {choice.mode}: {choice.reason}.")
    else:
        print(f"{'MISSING':{WIDTH}} No build can work here.")
    for mode, lacks in reasons.items():
        if not lacks:
            print(f"{'ok':{WIDTH}} mode {mode}")
            continue
        need = " (not needed)" * bool(choice)
        print(f"{'no':{WIDTH}} mode {mode}{need}")
        for each in lacks:
            print(f"{'':{WIDTH}}   - {each.what}")
            for line in each.remedy.splitlines():
                print(f"{'':{WIDTH}}     {line}")
    for place in places:
        room = f"{binary(int(str(place['free'])))} free"
        sign = "no" if place["trouble"] else "ok"
        print(f"{sign:{WIDTH}} {place['what']}: {place['path']} ({place['type']}, {room})")
        if place["trouble"]:
            print(f"{'':{WIDTH}}   - {place['trouble']}")
    for site in sites:
        print(f"{'ok':{WIDTH}} site extension: {site}")
    print("\nWhat a recipe's backend needs besides: singbuild backends NAME")
    return 0 if choice else HostError.status


def _places() -> list[dict[str, object]]:
    """Return the directories that a build writes to: their file systems, and why it could not."""
    from singbuild import host, workspace
    from singbuild.errors import HostError
    from singbuild.plan import places
    from singrun.mounts.mountinfo import kind_of

    rows: list[dict[str, object]] = []
    for what, variable, place in (
        ("scratch", "SINGBUILD_TMPDIR", workspace.scratch_parent),
        ("cache", "SINGBUILD_CACHEDIR", workspace.cache_directory),
        ("logs", "XDG_STATE_HOME", workspace.log_directory),
    ):
        try:
            path, trouble = place(), ""
        except HostError as error:
            rows.append(
                {
                    "what": what,
                    "path": "",
                    "type": "",
                    "free": 0,
                    "trouble": f"{error.what}: {error.why}",
                }
            )
            continue
        # Not exists(): a home that is closed to its user is an answer, and no error.
        there = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
        if reason := places.unwritable(there):
            trouble = f"{there} cannot be written: {reason}. {variable} names another directory."
        rows.append(
            {
                "what": what,
                "path": str(path),
                "type": kind_of(str(there)),
                "free": host.free_bytes(there),
                "trouble": trouble,
            }
        )
    return rows
