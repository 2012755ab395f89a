"""``create``, ``bootstrap``, ``copy``, ``import``, ``expand``, ``shrink``: images that change."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import FILE as IMAGE
from singbuild.cli.parameters import MEBIBYTE, SIZE, force_option, quiet_option, value_options
from singbuild.errors import ImageError, SingbuildError, UsageError

if TYPE_CHECKING:
    from singbuild.ext3.reader.image import Image
    from singbuild.recipe.grammar import Header


@click.command(
    "create",
    cls=Command,
    examples=(
        "singbuild create /tmp/Debian.img",
        "singbuild create --size 2048 --force /tmp/Centos-7.img",
    ),
)
@click.argument("image", type=IMAGE)
@click.option(
    "-s",
    "--size",
    type=SIZE,
    default="768M",
    metavar="SIZE",
    help="Its size, such as 2G; a number alone is MiB.",
    show_default=True,
)
@force_option
@quiet_option
def create(image: Path, size: int, force: bool, quiet: bool) -> int:
    """Make an empty image of a fixed size, for bootstrap or import to fill.

    The file is sparse: what is not used takes no room on the disk.
    """
    from singbuild.images import change

    _check_positive(size)
    say = (lambda _: None) if quiet else print
    say(f"Creating a new image with a maximum size of {size // MEBIBYTE}MiB...")
    say("Executing image create helper")
    say("Formatting image with ext3 file system")
    change.create(image, size, force=force)
    say("Done.")
    return 0


@click.command(
    "bootstrap",
    cls=Command,
    examples=(
        "singbuild bootstrap /tmp/Debian.img debian.def",
        "singbuild bootstrap /tmp/Debian.img",
    ),
)
@click.argument("image", type=IMAGE)
@click.argument("recipe", required=False)
@value_options
@click.option("--notest", is_flag=True, help="Leave out %test.")
@quiet_option
def bootstrap(
    image: Path,
    recipe: str | None,
    values: Path | None,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    notest: bool,
    quiet: bool,
) -> int:
    """Build RECIPE into an existing image, in place; its size stays.

    A recipe without a Bootstrap: line works on the image's content. Without RECIPE
    only the image's metadata is renewed. After a failure the image is as it was before.
    """
    from singbuild.console import display
    from singbuild.images import change
    from singbuild.recipe import grammar
    from singbuild.recipe.text import Text

    if recipe is not None and image.suffix == ".def" and Path(recipe).suffix != ".def":
        raise UsageError(
            f"{image} is a recipe", remedy=f"The order is: singbuild bootstrap {recipe} {image}"
        )
    implied = of_image(image)
    try:
        if recipe is None:
            loaded = grammar.parse(Text(str(image), ""), implied)
        else:
            loaded = grammar.load(
                recipe,
                build_args=build_args,
                build_arg_file=build_arg_file,
                values=values,
                implied=implied,
            )
        return change.bootstrap(image, loaded, test=not notest, quiet=quiet)
    except SingbuildError as error:
        display.Console(sys.stdout).error(error, None)
        return error.status


@click.command(
    "copy",
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    examples=(
        "singbuild copy /tmp/Centos-7.img script.py /usr/bin/",
        "singbuild copy /tmp/Centos-7.img -a data/ /srv",
    ),
)
@click.argument("image", type=IMAGE)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]... SOURCE... DEST")
def copy(image: Path, words: tuple[str, ...]) -> int:
    """Copy files into an image, with cp's options.

    Links in the image are never followed out of it. An ordinary user's copies belong
    to root in the image.
    """
    from singbuild.console import display
    from singbuild.images import change, incoming

    options, names = _parted(words)
    incoming.check_options(options)
    if len(names) < 2:
        raise UsageError(
            "copy needs a source and a destination",
            remedy="Say: singbuild copy IMAGE [OPTION]... SOURCE... DEST",
        )
    *sources, destination = names
    console = display.Console(sys.stdout)
    as_root = os.geteuid() == 0  # asked here: in the user namespace every caller has uid 0
    return change.change(
        image,
        lambda rootfs: incoming.copy(rootfs, options, sources, destination, as_root=as_root),
        console,
    )


@click.command(
    "import",
    cls=Command,
    examples=(
        "singbuild import /tmp/Debian.img debian.tar.gz",
        "docker export CONTAINER | singbuild import /tmp/Debian.img",
        "singbuild import /tmp/Debian.img docker://ubuntu:latest",
    ),
)
@click.argument("image", type=IMAGE)
@click.argument("source", default="-", metavar="[FILE|-|docker://NAME]")
@quiet_option
def import_(image: Path, source: str, quiet: bool) -> int:
    """Unpack a tar archive, or the layers of a Docker image, over an image's content.

    The archive may be compressed with gzip, bzip2, xz or zstd; without FILE it comes from
    standard input. Owners, attributes and holes are kept, for an ordinary user as well.
    """
    from singbuild.console import display
    from singbuild.images import change, incoming
    from singbuild.recipe import grammar
    from singbuild.recipe.text import Text

    if source.startswith("docker://"):
        text = f"Bootstrap: docker\nFrom: {source.removeprefix('docker://')}\n"
        return change.bootstrap(image, grammar.parse(Text(source, text)), quiet=quiet)
    if source == "-" and sys.stdin.isatty():
        raise UsageError(
            "there is no archive on standard input",
            remedy=f"Name one: singbuild import {image} FILE",
        )
    return change.change(
        image,
        lambda rootfs: rootfs.unpack([incoming.archive(source)]),
        display.Console(sys.stdout, quiet=quiet),
    )


@click.command(
    "export",
    cls=Command,
    examples=(
        "singbuild export /tmp/Debian.img | tar -tv",
        "singbuild export --format oci /tmp/Debian.img debian.oci.tar",
        "singbuild export --format docker-archive --name debian:mine /tmp/Debian.img | docker load",
    ),
)
@click.argument("image", type=IMAGE)
@click.argument("file", type=IMAGE, required=False)
@click.option(
    "-o", "--output", "-f", "--file", "output", type=IMAGE, metavar="FILE", help="The same as FILE."
)
@force_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["tar", "oci", "docker-archive"]),
    default="tar",
    help="tar: the tree. The others: a container image of one layer, in one file.",
    show_default=True,
)
@click.option("--name", metavar="NAME:TAG", help="The image's name in it; by default the file's.")
def export_(
    image: Path, file: Path | None, output: Path | None, force: bool, form: str, name: str | None
) -> int:
    """Write an image's content as a tar archive to FILE or standard output, without root.

    Owners, attributes, links and holes are kept; `import` takes it back. docker load
    and podman load take both formats of container images.
    """
    from singbuild import host, workspace
    from singbuild.formats.loading import opened as opened_image
    from singbuild.images import containers
    from singbuild.tar import write

    if file and output:
        raise UsageError(f"two files are named: {file} and {output}")
    file = file or output
    if file and not force and os.path.lexists(file) and (file.is_file() or file.is_symlink()):
        raise ImageError(f"{file} exists", remedy="Replace it with --force, or name another file.")
    if name and form == "tar":
        raise UsageError("a tar archive has no name", remedy="Add --format docker-archive or oci.")
    name = containers.checked_name(name or containers.default_name(image))
    with opened_image(image) as opened:
        opened.check_clean()
        pieces = write.archive(opened) if form == "tar" else containers.archive(opened, form, name)
        if form != "tar" and (text := containers.whiteout_warning(opened)):
            click.echo(f"singbuild: warning: {text}", err=True)
        if file is None:
            if sys.stdout.isatty():
                raise UsageError(
                    "an archive is not written to a terminal",
                    remedy=f"Name a file: singbuild export {image} FILE",
                )
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return 0
        with workspace.part_file(file) as part:
            with part.opened() as out:
                out.writelines(pieces)
            part.chmod(0o600 | 0o666 & ~host.umask())
            workspace.rename_into_place(part, file, replace=force)
    return 0


@click.command("expand", cls=Command, examples=("singbuild expand --size 1024 /tmp/Debian.img",))
@click.argument("image", type=IMAGE)
@click.option(
    "-s",
    "--size",
    type=SIZE,
    default="512M",
    metavar="SIZE",
    help="How much to add, such as 2G; a number alone is MiB.",
    show_default=True,
)
@quiet_option
def expand(image: Path, size: int, quiet: bool) -> int:
    """Make an image's file system larger by SIZE."""
    from singbuild.console import display
    from singbuild.images import change

    _check_positive(size)

    def larger(opened: Image) -> int:
        return opened.superblock.size + size

    console = display.Console(sys.stdout, quiet=quiet)
    return change.change(image, change.nothing, console, size=larger)


@click.command("shrink", cls=Command, examples=("singbuild shrink --free 64M /tmp/Debian.img",))
@click.argument("image", type=IMAGE)
@click.option(
    "--free",
    type=SIZE,
    default="0",
    metavar="SIZE",
    help="Leave this much free space, such as 64M.",
    show_default=True,
)
@quiet_option
def shrink(image: Path, free: int, quiet: bool) -> int:
    """Make an image as small as its content."""
    from singbuild.console import display
    from singbuild.images import change

    console = display.Console(sys.stdout, quiet=quiet)
    return change.change(image, change.nothing, console, size=lambda _: 0, free=free)


def _check_positive(size: int) -> None:
    if not size:
        raise UsageError("--size must be more than 0")


def of_image(image: Path) -> tuple[Header, ...]:
    """Return the header for a recipe without one: it builds onto the image's content."""
    from singbuild.recipe.grammar import Header

    origin = str(image.absolute())
    return (
        Header("Bootstrap", "localimage", 0, 0, 0, "", ()),
        Header("From", origin, 0, 0, 0, "", ()),
    )


def _parted(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return cp's options and the names; "--" ends the options."""
    options: list[str] = []
    names: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            names += rest
            break
        (options if word.startswith("-") and word != "-" else names).append(word)
    return options, names


COMMANDS = (create, bootstrap, copy, import_, export_, expand, shrink)
