"""``push``, ``login`` and ``logout``: images to registries."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import quiet_option
from singbuild.errors import UsageError

_LONGEST_PASSWORD = 1 << 16  # bytes; tokens have a few thousand


@click.command(
    "push",
    cls=Command,
    examples=(
        "singbuild push tool.sif oras://registry.example/lab/tool:1",
        "singbuild push tool.img docker://registry.example/lab/tool:1",
    ),
)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("uri")
@click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd"]),
    default="gzip",
    show_default=True,
    help="Of a container image's layer; older engines take gzip only.",
)
@click.option(
    "--stages",
    is_flag=True,
    help="A container image gets a layer for each stage of its build that the cache still has, so "
    "that its next version shares them.",
)
@click.option("--no-sbom", is_flag=True, help="Send no bill of materials with it.")
@click.option(
    "--sign-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sign it there as cosign does, with its provenance and its bill of materials: a private "
    "key in PEM, or a cosign.key.",
)
@quiet_option
def push_image(
    image: Path,
    uri: str,
    compression: str,
    stages: bool,
    no_sbom: bool,
    sign_key: Path | None,
    quiet: bool,
) -> int:
    """Send IMAGE to a registry, with its labels, and its bill of materials beside it.

    To oras://HOST/NAME:TAG goes the file as it is: SIF, squashfs or ext3. To
    docker://HOST/NAME:TAG goes a container image, which podman, docker and Kubernetes run.
    Prints the digest by which the registry knows it.
    """
    from singbuild.console import choice
    from singbuild.errors import SingbuildError
    from singbuild.images.push import push

    console = choice.choose(sys.stderr, as_json=False, quiet=quiet)
    with console:
        try:
            with_bill = not no_sbom
            digest = push(
                image, uri, console,
                packing=compression, bill=with_bill, key=sign_key, by_stage=stages,
            )  # fmt: skip
        except SingbuildError as error:
            console.error(error, None)
            return error.status
    print(digest)
    return 0


@click.command("login", cls=Command, examples=("singbuild login -u ada registry.example",))
@click.argument("registry")
@click.option("-u", "--username", help="Who you are there; asked for if left out.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input; needs -u."
)
@quiet_option
def login(registry: str, username: str | None, password_stdin: bool, quiet: bool) -> int:
    """Try a password at REGISTRY and keep it where docker and podman find it, too.

    That is ~/.docker/config.json, or the helper program that it names.
    """
    from singbuild.console import choice
    from singbuild.transports.loading import find

    if password_stdin:
        username, password = credentials_on_stdin(username)
    elif sys.stdin.isatty():
        username = username or click.prompt("Username")
        password = click.prompt("Password", hide_input=True)
    else:
        raise UsageError("there is no terminal to ask on", remedy="Add -u NAME --password-stdin.")
    console = choice.choose(sys.stderr, as_json=False, quiet=quiet)
    where = find(_scheme(registry)).login(registry, username, password, console)
    if not quiet:
        print(f"The password is kept in {where}.")
    return 0


@click.command("logout", cls=Command, examples=("singbuild logout registry.example",))
@click.argument("registry")
@quiet_option
def logout(registry: str, quiet: bool) -> int:
    """Forget the password for REGISTRY."""
    from singbuild.transports.loading import find

    where = find(_scheme(registry)).logout(registry)
    if not quiet:
        print(f"It is no longer in {where}." if where else f"No password is known for {registry}.")
    return 0


def credentials_on_stdin(username: str | None) -> tuple[str, str]:
    """Return the username, and the password that standard input begins with. Raises UsageError."""
    if not username:  # asked for it, the password would be the answer
        raise UsageError("--password-stdin needs a username", remedy="Add -u NAME.")
    try:
        password = sys.stdin.buffer.readline(_LONGEST_PASSWORD).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError("the password on standard input is not UTF-8") from None
    if not password:
        raise UsageError("there is no password on standard input")
    return username, password


def _scheme(registry: str) -> str:
    """Return the scheme of a registry's URI; the usual one where none is written."""
    scheme, colon, _ = registry.partition("://")
    return scheme if colon and scheme != "oras" else "docker"


COMMANDS = (push_image, login, logout)
