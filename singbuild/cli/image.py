"""``pull``; ``inspect`` and ``diff``: questions about images, answered from the file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import FILE as IMAGE
from singbuild.cli.parameters import (
    arch_option,
    document,
    events_option,
    force_option,
    json_option,
    offline_option,
    quiet_option,
)

if TYPE_CHECKING:
    from singbuild.images.difference import FileChange, PackageChange

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
NO_TEXT = "backslashreplace"  # how a name is shown that is not UTF-8


@click.command(
    "inspect",
    cls=Command,
    examples=("singbuild inspect debian.img", "singbuild inspect --sizes debian.sif"),
)
@click.argument("image", type=IMAGE)
@click.option("--json", "part", flag_value="json", help="All of it as one JSON object.")
@click.option("--labels", "part", flag_value="labels", help="The labels, as JSON.")
@click.option("--recipe", "part", flag_value="recipe", help="The recipe it was built from.")
@click.option("--lock", "part", flag_value="lock", help="Its lock: the exact inputs of its build.")
@click.option("--sbom", "part", flag_value="sbom", help="Its packages, as SPDX 2.3 in JSON.")
@click.option(
    "--cyclonedx", "part", flag_value="cyclonedx", help="Its packages, as CycloneDX 1.6 in JSON."
)
@click.option(
    "--provenance",
    "part",
    flag_value="provenance",
    help="How and of what it was built: an in-toto statement with SLSA's predicate, in JSON.",
)
@click.option("--environment", "part", flag_value="environment", help="Its environment scripts.")
@click.option("--runscript", "part", flag_value="runscript", help="Its runscript.")
@click.option("--test", "part", flag_value="test", help="Its %test.")
@click.option("--help-text", "part", flag_value="help", help="Its %help.")
@click.option("--sizes", "part", flag_value="sizes", help="Its largest packages and directories.")
def inspect_image(image: Path, part: str | None) -> int:
    """Describe IMAGE, without root or a mount.

    Without an option: a summary. One part is printed at a time. Reads SIF, squashfs,
    directories, Singularity 2.x images and bare ext3 too.
    """
    from singbuild.console.events import printable
    from singbuild.formats.loading import opened
    from singbuild.images import inspection, parts, provenance, sizes
    from singbuild.signatures.image_file import counts

    documents = {
        "sbom": inspection.bill,
        "cyclonedx": inspection.cyclonedx_bill,
        "provenance": provenance.statement,
        "sizes": sizes.described,
    }
    with opened(image) as tree:
        if part in documents:
            text = documents[part](tree).encode(errors=NO_TEXT)
        elif part == "json":
            facts = inspection.summary(tree) | {"signatures": counts(image)}
            document("inspect", **facts, directories=sizes.directories(tree))
            return 0
        elif part:
            text = parts.part(tree, part)
            if sys.stdout.isatty():
                text = printable(text.decode(errors="replace")).encode()
        else:
            facts = inspection.summary(tree) | {"signatures": counts(image)}
            text = inspection.described(facts).encode(errors=NO_TEXT)
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return 0


@click.command(
    "diff",
    cls=Command,
    examples=("singbuild diff old.img new.img", "singbuild diff --packages old.img new.img"),
)
@click.argument("one", type=IMAGE)
@click.argument("other", type=IMAGE)
@json_option
@click.option("--packages", "only_packages", is_flag=True, help="Compare packages only.")
@click.option("--times", is_flag=True, help="Compare modification times too.")
def diff_images(one: Path, other: Path, as_json: bool, only_packages: bool, times: bool) -> int:
    """Compare two images of any kind: their packages, and for each file what differs in it.

    Exits with 0 when they are equal, with 1 when they differ. Two images that record
    one digest, and were never mounted for writing, are taken as equal without reading
    their files; `singbuild verify` tells whether a record is still true.
    """
    from singbuild.formats.loading import opened
    from singbuild.images import difference

    packages: list[PackageChange] = []
    files: list[FileChange] = []
    with opened(one) as first, opened(other) as second:
        if difference.want_comparison(first, second):
            packages = difference.package_changes(first, second)
            files = [] if only_packages else [*difference.files(first, second, times=times)]
    if as_json:
        document("diff", **_as_json(packages, files))
    else:
        _print_changes(packages, files)
    return 1 if packages or files else 0


def _as_json(packages: list[PackageChange], files: list[FileChange]) -> dict[str, Any]:
    return {
        "same": not (packages or files),
        "packages": [asdict(change) for change in packages],
        "files": [
            {
                "kind": change.kind,
                "path": change.shown,
                "details": [asdict(detail) for detail in change.details],
            }
            for change in files
        ],
    }


def _print_changes(packages: list[PackageChange], files: list[FileChange]) -> None:
    for package in packages:
        versions = " -> ".join(version for version in (package.was, package.now) if version)
        print(f"{_SIGNS[package.kind]} package {package.name} {versions} ({package.manager})")
    for file in files:
        details = ", ".join(f"{d.what} {d.was} -> {d.now}" for d in file.details)
        print(f"{_SIGNS[file.kind]} {file.shown}{': ' if details else ''}{details}")
    if packages or files:
        print(f"{_counted(len(packages), 'package')} and {_counted(len(files), 'file')} differ")
    else:
        print("no difference")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


@click.command(
    "pull",
    cls=Command,
    examples=(
        "singbuild pull docker://python:3-slim",
        "singbuild pull oci:layout:latest my.img",
        "singbuild pull oras://registry.example/lab/tool:1",
    ),
)
@click.argument("source")
@click.argument("image", type=IMAGE, required=False)
@force_option
@arch_option
@click.option(
    "--once",
    is_flag=True,
    help="Leave an existing image as it is, unless --force; if another pull is writing it, wait.",
)
@click.option("--insecure", is_flag=True, help="Take plain http from a registry, too.")
@offline_option
@events_option
@quiet_option
def pull_image(
    source: str,
    image: Path | None,
    force: bool,
    arch: str,
    once: bool,
    insecure: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Bring an image: a container image becomes one, an image's file comes as it is.

    SOURCE is docker://NAME, docker-daemon:NAME, docker-archive:FILE, oci:DIRECTORY or
    oci-archive:FILE; or, for files, oras://HOST/NAME, library://…, shub://… or https://….
    `singrun exec SOURCE COMMAND` does the same, into the cache.
    """
    from singbuild.console import choice
    from singbuild.errors import SingbuildError
    from singbuild.images import pull

    try:
        options = pull.PullOptions(force, arch, insecure, as_json, quiet)
        if once and image:
            return pull.pull_once(source, image, options)
        return pull.pull(source, image, options)
    except SingbuildError as error:
        choice.choose(sys.stdout, as_json=as_json, quiet=quiet).error(error, None)
        return error.status


COMMANDS = (pull_image, inspect_image, diff_images)
