"""``push``, ``registry`` and ``remote``: images to registries, and who one is there."""

from __future__ import annotations

from pathlib import Path

import click

from singbuild.errors import UsageError
from singbuild.singularity import options
from singbuild.singularity.group import Group
from singbuild.singularity.messages import INFO, InfoConsole


@click.command(
    "push", epilog="\b\nExample:\n  singularity push a.sif oras://registry.example/a:1\n"
)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("uri")
@options.idle("allow-unsigned/U")
@click.pass_obj
def push(quiet: bool, image: Path, uri: str) -> int:
    """Send IMAGE to oras://HOST/NAME:TAG as a file, to docker://… as a container image."""
    from singbuild.images import push as images

    console = InfoConsole(quiet=quiet)
    digest = images.push(image, uri, console, packing="gzip", bill=True)
    if not quiet:
        click.echo(f"{INFO}The registry knows it as {digest}", err=True)
    return 0


_HUBS = "There is no hub that a word without a host would mean; say docker://HOST/NAME."
_ELSEWHERE = {
    **dict.fromkeys(("add", "remove", "status", "use"), _HUBS),
    **dict.fromkeys(("add-keyserver", "remove-keyserver"), "No server of keys is asked."),
    "get-login-password": "Passwords are where docker keeps them, in ~/.docker/config.json.",
}


@click.group("registry", cls=Group)
def registry_commands() -> None:
    """Log in to registries, and out, and say where one is logged in."""


@click.group("remote", cls=Group, absent=_ELSEWHERE)
def remote_commands() -> None:
    """The same as registry, as it was called in 3.x."""


@click.command("login")
@click.argument("uri")
@click.option("-u", "--username", help="Who you are there.")
@click.option("-p", "--password", help="Other users of this host can see it.")
@click.option("--password-stdin", is_flag=True, help="Read it from standard input; needs -u.")
@click.pass_obj
def login(
    quiet: bool, uri: str, username: str | None, password: str | None, password_stdin: bool
) -> int:
    """Try a password at docker://HOST or oras://HOST, and keep it where docker does."""
    from singbuild.cli.exchange import credentials_on_stdin
    from singbuild.transports.loading import find

    if password_stdin:
        username, password = credentials_on_stdin(username)
    username = username or click.prompt("Username", err=True)
    if password is None:
        password = click.prompt("Password / Token", hide_input=True, err=True)
    where = find("docker").login(_server(uri), username, password, InfoConsole(quiet=quiet))
    click.echo(f"{INFO}Token stored in {where}", err=True)
    return 0


@click.command("logout")
@click.argument("uri")
def logout(uri: str) -> int:
    """Forget the password for docker://HOST or oras://HOST."""
    from singbuild.transports.loading import find

    if not find("docker").logout(_server(uri)):
        raise UsageError(f"no password is known for {uri}")
    click.echo(f"{INFO}Logout succeeded", err=True)
    return 0


@click.command("list")
@click.pass_obj
def logins(quiet: bool) -> int:
    """List the registries for which you have a password, in docker's and Podman's files."""
    from singbuild.transports.loading import find

    servers = find("docker").logins(InfoConsole(quiet=quiet))
    width = max(map(len, ("URI", *(f"docker://{server}" for server in servers))))
    click.echo(f"{'URI':{width}}  SECURE?")
    for server, is_secure in servers.items():
        click.echo(f"{f'docker://{server}':{width}}  {'✓' if is_secure else '✗!'}")
    return 0


def _server(uri: str) -> str:
    return uri.partition("://")[2] or uri


for _group in (registry_commands, remote_commands):
    _group.add_command(login)
    _group.add_command(logout)
    _group.add_command(logins)
