"""``singbuild doctor``: which privilege modes work on this host, and what the others need."""

from __future__ import annotations

import json

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead.")
def doctor(as_json: bool) -> int:
    """Say which privilege modes work for you here, and what each missing one needs.

    Ends with 0 when a build can work, else with 5.
    """
    from singbuild.errors import HostError
    from singbuild.privilege.modes import PROBES, choose

    found = {mode: probe() for mode, probe in PROBES.items()}
    try:
        choice = choose()
    except HostError:
        choice = None
    if as_json:
        modes = {
            mode: {"works": not lacks, "missing": [vars(each) for each in lacks]}
            for mode, lacks in found.items()
        }
        print(json.dumps({"version": 1, "chosen": choice and choice.mode, "modes": modes}))
    else:
        for mode, lacks in found.items():
            print(f"{mode:8} {'does not work' if lacks else 'works'}")
            for each in lacks:
                print(f"         - {each.what}")
                print("\n".join(f"           {line}" for line in each.remedy.splitlines()))
        print(f"\nBuilds here take: {choice.mode}" if choice else "\nNo build can work here.")
    return 0 if choice else HostError.status
