"""``pull``: [--name FILE | FILE] URI, and the names that Singularity 3.x gives to files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from singbuild.errors import SourceError, UsageError
from singbuild.singularity import options, source, targets
from singbuild.singularity.messages import InfoConsole

_REMEDY = "Say: pull [FILE] docker://NAME:TAG"
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
    """Make a file of a container image, or bring an image's file.

    URI is docker://NAME, docker-daemon:NAME, docker-archive:FILE, oci:DIR or oci-archive:FILE;
    or, for files, oras://HOST/NAME, library://NAME, shub://NAME or https://HOST/FILE.
    """
    from singbuild import build
    from singbuild.images import pull as images
    from singbuild.plan import plan
    from singbuild.plan.options import Options
    from singbuild.transports import loading as transports

    uri, file_name = _sorted(words)
    target = _folder(folder) / (name or file_name or default_name(uri))
    console, machine = InfoConsole(quiet=quiet), options.machine(arch, platform)
    if images.is_file(uri):
        return images.fetch(transports.place(uri, machine), target, console, force=force)
    recipe = images.recipe(uri, insecure=options.plain_http(nohttps=nohttps))
    kind = targets.kind(target)
    build_options = Options(force=force, test=False, use_cache=False, format=kind, command="pull")
    return build.build(plan.make(recipe, console, machine), target, build_options, console)


def default_name(uri: str) -> str:
    """Return the name that 3.x gives: docker://debian gives debian_latest.sif."""
    scheme, _, rest = uri.partition(":")
    last = rest.rstrip("/").rpartition("/")[2]
    if scheme in ("http", "https"):
        return last.partition("?")[0]
    name, _, tag = last.partition(":")
    return f"{name}_{tag or 'latest'}.sif"


def _sorted(words: tuple[str, ...]) -> tuple[str, str]:
    """Return the URI and the file's name, "" for none; 3.x has the URI last, 2.x first."""
    uris = [word for word in words if source.is_uri(word)]
    names = [word for word in words if word not in uris]
    if len(words) > 2:
        raise UsageError(f"cannot understand: pull {' '.join(words)}", remedy=_REMEDY)
    if len(uris) != 1:
        source.refuse_plain_http(words[-1])
        raise SourceError(
            f"cannot pull {words[-1]}", why="It names no transport, as docker://.", remedy=_REMEDY
        )
    return uris[0], names[0] if names else ""


def _folder(directory: str | None) -> Path:
    return Path(directory or next(filter(None, map(os.environ.get, _FOLDERS)), ""))
