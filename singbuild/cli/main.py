"""The command line of the builder: words in, calls of the engine, exit statuses out."""

from __future__ import annotations

import os
import pwd
import signal
import sys
import traceback
from io import TextIOWrapper

import click

from singbuild import __version__
from singbuild.cli import configuration, strangers
from singbuild.cli.backends import COMMANDS as BACKEND_COMMANDS
from singbuild.cli.build import COMMANDS as BUILD_COMMANDS
from singbuild.cli.build import build
from singbuild.cli.cache import cache_commands
from singbuild.cli.change import COMMANDS as CHANGE_COMMANDS
from singbuild.cli.completion import COMMANDS as COMPLETION_COMMANDS
from singbuild.cli.configuration import config_commands
from singbuild.cli.convert import COMMANDS as CONVERT_COMMANDS
from singbuild.cli.doctor import doctor
from singbuild.cli.exchange import COMMANDS as EXCHANGE_COMMANDS
from singbuild.cli.grammar import Group
from singbuild.cli.hub import hub_commands
from singbuild.cli.image import COMMANDS as IMAGE_COMMANDS
from singbuild.cli.plan import COMMANDS as PLAN_COMMANDS
from singbuild.cli.signatures import COMMANDS as SIGNATURE_COMMANDS
from singbuild.configuration import reading
from singbuild.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    HostError,
    SingbuildError,
)

WITHOUT_FILES = ("help", "completion")  # commands that work whatever configuration files say
NO_HOME = "/nonexistent"  # Debian's name for it
STATUSES = """\b
Exit statuses:
  0    success
  1    two builds differ (--check-reproducible), or two images (diff, hub compare, attest-rebuild)
  2    the command line is wrong
  3    the recipe is wrong: file, line and column are named
  4    no such backend, or a broken one
  5    this host lacks a program, a privilege, or space
  6    an input could not be had: mirror, download, checksum
  7    a command of %setup, %post or %test failed, or a recipe of a hub
  8    the image cannot be written, or is not a sound image
  9    an input differs from the lock, or there is no lock
  10   a signature is not accepted, or one that was asked for is missing
  70   a bug in singbuild
  130  Ctrl-C; 143 SIGTERM. Nothing is left behind.
"""


class Commands(Group):
    """``singbuild RECIPE IMAGE`` is ``singbuild build RECIPE IMAGE``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put ``build`` before a recipe, and a command before options that precede it."""
        own = {name for parameter in self.get_params(context) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            first = _options_length(args)
            if args[first : first + 1] and args[first] in self.commands:
                args = [args[first], *args[:first], *args[first + 1 :]]
            elif strangers.is_command_like(args[0]):
                raise strangers.no_command(args[0], [*self.commands])
            else:
                args = ["build", *args]
        return super().parse_args(context, args)


def _options_length(words: list[str]) -> int:
    """Return how many of the first words are options of ``build`` and their values."""
    with_value = {
        name
        for parameter in build.params
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for name in parameter.opts
    }
    count = 0
    while count < len(words) and words[count].startswith("-") and words[count] != "-":
        count += 1 + (words[count] in with_value)
    return count


@click.group(cls=Commands, epilog=STATUSES)
@click.version_option(__version__, message="singbuild %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Turn a recipe into one file that holds a whole Linux environment.

    \b
      singbuild RECIPE IMAGE       the main job
      singbuild help COMMAND       tells more of one command
      ./IMAGE ARGUMENTS            runs its runscript, as you
      singrun exec IMAGE COMMAND   runs a program in it, as you
    """  # noqa: D301 - click wants the character itself
    if context.invoked_subcommand not in WITHOUT_FILES and not {"-h", "--help"} & {*sys.argv}:
        configured = reading.read()
        configured.check_variables()
        # ``config`` shows the variables as the caller has them.
        if context.invoked_subcommand != "config":
            configuration.for_plugins(configured)
        context.default_map = {"build": configuration.defaults(configured, build)}


commands.add_command(cache_commands)
commands.add_command(config_commands)
commands.add_command(doctor)
commands.add_command(hub_commands)
for each_command in (
    *BUILD_COMMANDS,
    *PLAN_COMMANDS,
    *IMAGE_COMMANDS,
    *SIGNATURE_COMMANDS,
    *EXCHANGE_COMMANDS,
    *CONVERT_COMMANDS,
    *CHANGE_COMMANDS,
    *BACKEND_COMMANDS,
    *COMPLETION_COMMANDS,
):
    commands.add_command(each_command)


@commands.command("help", examples=("singbuild help build", "singbuild help cache prune"))
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def show_help(context: click.Context, words: tuple[str, ...]) -> int:
    """Print the help of a command; without one, the list of commands."""
    command: click.Command = commands
    inside = context.find_root()
    for word in words:
        names = [*command.commands] if isinstance(command, click.Group) else []
        if word not in names:
            raise strangers.no_command(word, names, inside.command_path)
        assert isinstance(command, click.Group)
        command = command.commands[word]
        inside = click.Context(command, info_name=word, parent=inside)
    print(command.get_help(inside))
    return 0


def prepare_streams() -> None:
    """Open the standard streams that are closed, and let them take names that are not UTF-8.

    One that the caller has closed (``>&-``) is /dev/null: else the next file that is opened would
    get its number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - the lowest number
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_home() -> None:
    """Set HOME and XDG_RUNTIME_DIR, where they are not, as the host has them for the caller.

    To be called before any namespace: in a user namespace the caller is root, and would get root's.
    """
    uid = os.getuid()
    if not os.environ.get("HOME"):
        try:
            os.environ["HOME"] = pwd.getpwuid(uid).pw_dir
        except KeyError:  # as in a container with a foreign uid
            os.environ["HOME"] = NO_HOME
    if not os.environ.get("XDG_RUNTIME_DIR") and os.access(f"/run/user/{uid}", os.X_OK):
        os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{uid}"


def _report(error: SingbuildError) -> int:
    """Print an error, as an event for --json; return the exit status."""
    from singbuild.console import display

    form = display.JsonConsole if "--json" in sys.argv else display.Console
    form(sys.stdout).error(error, None)
    return error.status


def main() -> None:
    """Execute the command line; the only place that ends the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, each program would seem to succeed
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # blocked, Ctrl-C and time limits would be lost
    prepare_streams()
    set_home()
    sys.exit(with_output_written(_status()))


def _status() -> int:
    """Execute the command line; return the exit status."""
    try:
        return int(commands.main(prog_name="singbuild", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except click.UsageError as error:
        return _report(strangers.explained(error))
    except SingbuildError as error:
        return _report(error)
    except (OSError, MemoryError) as error:
        from singbuild.console import faults

        return _report(faults.of_host(error))
    except Exception:
        traceback.print_exc()
        print("singbuild: this is a bug; please report it with the lines above", file=sys.stderr)
        return EXIT_BUG


def with_output_written(status: int, beginning: str = "singbuild: error: ") -> int:
    """Write what standard output still holds; return the exit status, which says if it cannot be.

    Else the interpreter would complain, on its way out, with a status of its own.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # of ``| head`` nobody wants to hear
            return status or 1  # as click ends where more than a buffer was to be printed
        cause = HostError("standard output cannot be written", why=error.strerror or str(error))
        print(f"{beginning}{cause}", file=sys.stderr)
        return status or cause.status
    return status
