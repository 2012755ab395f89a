"""The command line of the builder: words in, calls of the engine, exit statuses out."""

from __future__ import annotations

import os
import pwd
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path

import click

from singbuild import __version__, command
from singbuild.cli.build import COMMANDS as BUILD_COMMANDS
from singbuild.cli.cache import cache_commands
from singbuild.cli.change import COMMANDS as CHANGE_COMMANDS
from singbuild.cli.doctor import doctor
from singbuild.cli.image import COMMANDS as IMAGE_COMMANDS
from singbuild.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    HostError,
    SingbuildError,
    UsageError,
)

NO_HOME = "/nonexistent"  # Debian's name for it
STATUSES = """\b
Exit statuses:
  0    the image is built
  1    two builds differ (--check-reproducible), two images differ (diff)
  2    the command line is wrong
  3    the recipe is wrong: file, line and column are named
  4    no such backend, or a broken one
  5    this host lacks a program, a privilege, or space
  6    an input could not be had: mirror, download, checksum
  7    a command of %setup, %post or %test failed
  8    the image cannot be written, or is not a sound image
  70   a bug in singbuild
  130  Ctrl-C; 143 SIGTERM. Nothing is left behind.
"""


class Commands(click.Group):
    """``singbuild RECIPE IMAGE`` is ``singbuild build RECIPE IMAGE``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put the word ``build`` before anything that is neither a command nor our own option."""
        own = {name for parameter in self.get_params(context) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["build", *args]
        return super().parse_args(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with a whole sentence each; click itself would cut them."""
        rows = [
            (name, self.commands[name].get_short_help_str(limit=200))
            for name in self.list_commands(context)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=Commands, epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="singbuild")
def commands() -> None:
    """Turn a recipe into one file that holds a whole Linux environment.

    \b
      singbuild RECIPE IMAGE       the main job
      ./IMAGE ARGUMENTS            runs its runscript, as you
      singrun exec IMAGE COMMAND   runs a program in it, as you
    """  # noqa: D301 - click wants the character itself


commands.add_command(cache_commands)
commands.add_command(doctor)
for each_command in (*BUILD_COMMANDS, *IMAGE_COMMANDS, *CHANGE_COMMANDS):
    commands.add_command(each_command)


@commands.command("backends")
@click.argument("name", required=False)
def show_backends(name: str | None) -> int:
    """List the backends that are installed, or print one's keywords and host programs."""
    from singbuild.backends import loading

    if name is None:
        for each in loading.installed():
            print(f"{each.name:20} {each.distribution} {each.version}")
        return 0
    backend = loading.load(name)
    print(f"{name}, from {backend.installed.distribution} {backend.installed.version}\n\nKeywords:")
    for keyword in backend.needs.keywords:
        must = " (required)" if keyword.required else ""
        default = f" Default: {keyword.default}." if keyword.default else ""
        print(f"  {keyword.name:14} {keyword.help}{must}{default}")
    print("\nHost programs:")
    for program in backend.needs.programs:
        there = command.which(program.name) or f"missing: apt-get install {program.package}"
        print(f"  {program.name:14} {there}")
    return 0


@commands.command("new-backend")
@click.argument("name")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def new_backend(name: str, directory: Path | None) -> int:
    """Write a distribution for a backend NAME: it installs, works, and passes its tests."""
    from singbuild.backends import scaffold

    where = scaffold.new_backend(name, directory)
    print(f"{where}\nNext: pip install -e '{where}[test]' && pytest {where}")
    return 0


def set_home() -> None:
    """Set HOME and XDG_RUNTIME_DIR, where they are not, as the host has them for the caller.

    To be called before any namespace: whoever asks in a user namespace gets root's, whom the
    caller is there.
    """
    uid = os.getuid()
    if not os.environ.get("HOME"):
        try:
            os.environ["HOME"] = pwd.getpwuid(uid).pw_dir
        except KeyError:  # as in a container with a foreign uid
            os.environ["HOME"] = NO_HOME
    if not os.environ.get("XDG_RUNTIME_DIR") and os.access(f"/run/user/{uid}", os.X_OK):
        os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{uid}"


def _usage_status() -> int:
    """Return the status for a wrong command line; `singularity` ends with another."""
    return 1 if os.environ.get("SINGBUILD_USAGE_STATUS") == "1" else UsageError.status


def main() -> None:
    """Execute the command line; the only place that ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names need not be text
    set_home()
    try:
        status = commands.main(prog_name="singbuild", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(_usage_status())
    except SingbuildError as error:
        print(f"singbuild: error: {error}", file=sys.stderr)
        sys.exit(_usage_status() if isinstance(error, UsageError) else error.status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"singbuild: error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(HostError.status)
    except Exception:
        traceback.print_exc()
        print("singbuild: this is a bug; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_BUG)
    sys.exit(status)
