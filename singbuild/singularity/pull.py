"""``pull``: [--name FILE | FILE] URI, and the names that Singularity 3.x gives to files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from singbuild.errors import UsageError
from singbuild.singularity import options, source
from singbuild.singularity.messages import InfoConsole

_FOLDERS = [
    f"{who}_{what}" for who in ("APPTAINER", "SINGULARITY") for what in ("PULLDIR", "PULLFOLDER")
]


@click.command(
    "pull",
    epilog="""\b
Examples:
  singularity pull docker://debian:12            makes debian_12.sif
  singularity pull mine.sif docker://debian:12
  singularity pull --name mine.sif docker://debian:12
""",
)
@click.argument("words", nargs=-1, required=True, metavar="[FILE] URI")
@click.option("-n", "--name", metavar="FILE", help="The file to make.")
@click.option("--dir", "folder", metavar="DIR", help="The directory for it.")
@click.option("-F", "--force", is_flag=True, help="Replace a file that is there.")
@options.of_registries
@options.idle("disable-cache", "allow-unsigned/U", "no-cleanup")
@click.pass_obj
def pull(
    quiet: bool,
    words: tuple[str, ...],
    name: str | None,
    folder: str | None,
    force: bool,
    arch: str,
    platform: str,
    nohttps: bool,
) -> int:
    """Make a file of a container image.

    URI is docker://NAME, docker-daemon:NAME, docker-archive:FILE, oci:DIR or oci-archive:FILE.
    """
    from singbuild import build
    from singbuild.plan import plan
    from singbuild.plan.options import Options

    uri, given = _sorted(words)
    recipe = source.of_uri(uri, insecure=options.plain_http(nohttps=nohttps))
    target = _folder(folder) / (name or given or default_name(uri))
    console = InfoConsole(quiet=quiet)
    planned = plan.make(recipe, console, options.machine(arch, platform))
    asked = Options(force=force, test=False, use_cache=False)
    return build.build(planned, target, asked, console)


def default_name(uri: str) -> str:
    """Return the name that 3.x gives: docker://debian gives debian_latest.sif."""
    last = uri.partition(":")[2].rstrip("/").rpartition("/")[2]
    name, _, tag = last.partition(":")
    return f"{name}_{tag or 'latest'}.sif"


def _sorted(words: tuple[str, ...]) -> tuple[str, str]:
    """Return the URI and the file's name, "" for none; 3.x has the URI last, 2.x first."""
    uris = [word for word in words if source.is_uri(word)]
    names = [word for word in words if word not in uris]
    if len(uris) != 1 or len(names) > 1:
        raise UsageError(
            f"cannot understand: pull {' '.join(words)}",
            why="" if uris else "No word of it names an image by its origin.",
            remedy="Say: pull [FILE] docker://NAME:TAG",
        )
    return uris[0], names[0] if names else ""


def _folder(given: str | None) -> Path:
    return Path(given or next(filter(None, map(os.environ.get, _FOLDERS)), ""))
