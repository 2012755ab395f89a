"""The command line of singularity and apptainer; bin/singularity says which of the two it is."""

from __future__ import annotations

import sys
import traceback

import click

from singbuild.cli import configuration
from singbuild.cli.change import COMMANDS as CHANGE_COMMANDS
from singbuild.cli.main import prepare_streams, set_home, with_output_written
from singbuild.configuration import reading
from singbuild.console.display import Console
from singbuild.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, SingbuildError, UsageError
from singbuild.singularity.build import build
from singbuild.singularity.cache import cache_commands
from singbuild.singularity.completion import completion
from singbuild.singularity.exchange import push, registry_commands, remote_commands
from singbuild.singularity.group import Group
from singbuild.singularity.inspect import apps, inspect, run_help
from singbuild.singularity.messages import FAILED, FATAL, WARNING
from singbuild.singularity.overlay import overlay_commands
from singbuild.singularity.pull import pull
from singbuild.singularity.sif import sif_commands
from singbuild.singularity.signatures import sign, verify
from singbuild.singularity.site import ABSENT, buildcfg

OPTION = "--spelling="
_OF_THE_RUNTIME = (
    *("exec", "run", "shell", "test", "instance", "env", "mount", "warm", "start", "stop"),
    *("instances", "doctor", "version"),
)
_WRONGLY_CALLED = 1


@click.group(
    cls=Group,
    absent=ABSENT,
    elsewhere=_OF_THE_RUNTIME,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def verbs() -> None:
    """Containers as Singularity 2.x, 3.x and Apptainer have them."""


_OWN = (
    *(build, pull, push, sign, verify, inspect, apps, run_help, buildcfg, completion),
    *(cache_commands, overlay_commands, registry_commands, remote_commands, sif_commands),
)
for _each in _OWN:
    verbs.add_command(_each)
for _each in CHANGE_COMMANDS:  # of 2.x, as singbuild has them
    verbs.add_command(_each)


def main() -> None:
    """Execute the command line, whose first word is --spelling=NAME[:quiet|:silent]."""
    name, _, manner = sys.argv.pop(1).removeprefix(OPTION).partition(":")
    prepare_streams()
    Console.error_prefix, Console.warning_prefix = FATAL, WARNING
    set_home()
    try:
        configured = reading.read()
        configured.check_variables()
        configuration.for_plugins(configured)
        quiet = {"quiet": bool(manner)}
        of_2x = {command.name: quiet for command in CHANGE_COMMANDS}
        status = verbs.main(
            prog_name=name, standalone_mode=False, obj=bool(manner), default_map=of_2x
        )
    except click.exceptions.Abort:
        status = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        status = _WRONGLY_CALLED
    except SingbuildError as error:
        print(f"{FATAL}{error}", file=sys.stderr)
        status = _WRONGLY_CALLED if isinstance(error, UsageError) else FAILED
    except (OSError, MemoryError) as error:
        from singbuild.console import faults

        print(f"{FATAL}{faults.of_host(error)}", file=sys.stderr)
        status = FAILED
    except Exception:
        traceback.print_exc()
        print(f"{FATAL}this is a bug; please report it with the lines above", file=sys.stderr)
        status = FAILED
    own = (0, _WRONGLY_CALLED, EXIT_INTERRUPTED, EXIT_TERMINATED)
    status = with_output_written(status, FATAL)
    sys.exit(status if status in own else FAILED)
