"""Options of several verbs: those with a meaning here, and those that are taken without one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from singbuild.errors import UsageError

Decorator = Callable[[Any], Any]
Callback = Callable[[click.Context, click.Parameter, Any], None]


def idle(*names: str) -> Decorator:
    """Add flags that are accepted and change nothing; docs/clients.md says why for each.

    names: "fakeroot", or "fakeroot/f".
    """

    def add(function: Any) -> Any:
        for word in reversed(names):
            name, _, short = word.partition("/")
            letters = [f"-{short}"] if short else []
            option = click.option(
                *letters, f"--{name}", is_flag=True, expose_value=False, hidden=True
            )
            function = option(function)
        return function

    return add


def refused(name: str, why: str, *, flag: bool = True) -> Decorator:
    """Add an option that is refused with the reason, rather than as an unknown word."""

    def refuse(_context: click.Context, _option: click.Parameter, value: Any) -> None:
        if value:
            raise UsageError(f"--{name} is not supported", why=why)

    return click.option(f"--{name}", is_flag=flag, expose_value=False, callback=refuse, hidden=True)


def variable(*names: str, sets: str, shows: str, what: str) -> Decorator:
    """Add an option that sets an environment variable, which the modules below read."""

    def set_variable(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value:
            os.environ[sets] = value

    return click.option(*names, metavar=shows, expose_value=False, callback=set_variable, help=what)


def _login(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["SINGBUILD_DOCKER_USERNAME"] = click.prompt("Enter Docker Username", err=True)
        os.environ["SINGBUILD_DOCKER_PASSWORD"] = click.prompt(
            "Enter Docker Password", hide_input=True, err=True
        )


def of_registries(function: Any) -> Any:
    """Add what says how a registry is reached, and which of its images is meant."""
    for option in (
        click.option("--arch", default="", metavar="MACHINE", help="The image for this machine."),
        click.option("--platform", default="", metavar="OS/ARCH", help="The same, as linux/arm64."),
        click.option("--nohttps", "--no-https", is_flag=True, help="Take plain http, too."),
        click.option(
            "--docker-login",
            is_flag=True,
            expose_value=False,
            callback=_login,
            help="Ask for a user and a password.",
        ),
        variable("--docker-host", sets="DOCKER_HOST", shows="URL", what="The engine's address."),
        variable("--authfile", sets="REGISTRY_AUTH_FILE", shows="FILE", what="Credentials."),
        variable("--tmpdir", sets="SINGBUILD_TMPDIR", shows="DIR", what="For the work itself."),
        variable("--library", sets="SINGBUILD_LIBRARY", shows="URL", what="For library://."),
    ):
        function = option(function)
    return function


def machine(arch: str, platform: str) -> str:
    """Return the machine's name that --arch or --platform gives; "" for this one's."""
    return arch or platform.partition("/")[2]


def plain_http(*, nohttps: bool) -> bool:
    """Whether plain http may be spoken, as the option or a variable says."""
    names = ("APPTAINER_NOHTTPS", "SINGULARITY_NOHTTPS")
    values = (os.environ.get(name, "").lower() for name in names)
    return nohttps or any(value in ("1", "true", "yes") for value in values)
