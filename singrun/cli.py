"""The command line: words to a Request, errors to text and status 255."""

import os
import sys

from singrun import __version__, binds, errors
from singrun.enter import enter
from singrun.environment import SIGINT, restore_signals
from singrun.errors import RunError, nearest, say
from singrun.request import Request
from singrun.strategies import NAMES as STRATEGIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

HELP = """\
Usage: singrun [-d] VERB [OPTIONS] IMAGE [ARGUMENTS]
       singrun ./IMAGE [ARGUMENTS]            the same as: singrun run ./IMAGE

Runs programs in an image as the calling user. IMAGE is a file that singbuild
made, a bare ext3 image, a Singularity 2.x image, or a directory.

Verbs:
  exec IMAGE COMMAND...   run a command
  run IMAGE [ARG...]      run the image's runscript
  shell IMAGE [ARG...]    start a shell
  test IMAGE [ARG...]     run the image's test

Options (before IMAGE; what follows IMAGE belongs to the command):
  -B, --bind SRC[:DST[:ro]]  show a file or directory of the host; repeatable, commas
  -H, --home [SRC:]DST       another home directory
      --no-home              do not share the home directory
      --pwd DIR              start in DIR inside the image
  -c, --contain              empty home and /tmp, a minimal /dev, no current directory
  -e, --cleanenv             pass no more of the environment than names user and terminal
  -p, --pid                  a PID namespace of its own
  -i, --ipc                  an IPC namespace of its own
      --mount-with HOW       loop or fuse2fs instead of what fits best
  -d, --debug                say on standard error what is done
  -h, --help                 this text
      --version              the version

Exit status: the command's own; 128+N when signal N killed it, as the shell
shows it; 127 command not found, 126 not executable; 255 when singrun itself
could not start it, with the reason on standard error.
"""
_VERBS = ["exec", "run", "shell", "test"]
_REMEDY = "See: singrun --help"
_SHORT = {
    "B": "bind",
    "H": "home",
    "c": "contain",
    "d": "debug",
    "e": "cleanenv",
    "h": "help",
    "i": "ipc",
    "p": "pid",
}
_FLAGS = {
    "no-home": "no_home",
    "contain": "contain",
    "cleanenv": "clean_environment",
    "pid": "pid",
    "ipc": "ipc",
    "debug": "debug",
}
_VALUES = ["bind", "home", "pwd", "mount-with"]
_TEXTS = {"help": HELP, "version": f"singrun {__version__}\n"}


def main() -> "NoReturn":
    """Run the command line. Never returns."""
    restore_signals(SIGINT)
    _occupy_standard_descriptors()
    status = errors.STATUS
    try:
        request = parse(sys.argv[1:])
        if isinstance(request, Request):
            enter(request)
        os.write(1, request.encode())
        status = 0
    except RunError as error:
        say(str(error))
        status = error.status
    except OSError as error:
        say(f"Cannot start: {error}\n  singrun --debug VERB IMAGE shows what was done before.")
    except Exception:
        sys.excepthook(*sys.exc_info())
        say("This is a bug in singrun; please report it with the lines above.")
    os._exit(status)


def parse(words: list[str]) -> Request | str:
    """Return the request that the words make, or the text that they ask for."""
    request = Request()
    rest = _take_options(words, request)
    if isinstance(rest, str):
        return rest
    if rest and "/" in rest[0]:
        request.verb, request.image, request.arguments = "run", rest[0], rest[1:]
        return request
    if not rest:
        raise RunError("What shall be run?", why="No verb was given.", remedy=_REMEDY)
    request.verb = _verb(rest[0])
    rest = _take_options(rest[1:], request)
    if isinstance(rest, str):
        return rest
    if not rest:
        raise RunError(f"No image was given to {request.verb}", remedy=_REMEDY)
    request.image, request.arguments = rest[0], rest[1:]
    if request.verb == "exec" and not request.arguments:
        raise RunError("No command was given to exec", remedy=_REMEDY)
    return request


def _verb(word: str) -> str:
    if word in _VERBS:
        return word
    guess = nearest(word, _VERBS)
    why = f"Did you mean {guess}?" if guess else f"The verbs are {', '.join(_VERBS)}."
    remedy = f"An image here is run as: singrun ./{word}" if os.path.exists(word) else _REMEDY
    raise RunError(f"There is no verb {word}", why=why, remedy=remedy)


def _take_options(words: list[str], request: Request) -> list[str] | str:
    """Apply the leading options and return the words after them, or a text that is asked for."""
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        for name, value in _options(word):
            if name in _TEXTS:
                return _TEXTS[name]
            if name in _FLAGS and value is None:
                setattr(request, _FLAGS[name], True)
            elif name in _VALUES:
                _set_value(request, name, rest.pop(0) if value is None and rest else value)
            else:
                raise _no_option(word, name)
    return rest


def _options(word: str) -> list[tuple[str, str | None]]:
    """Return the options in one word: --name, --name=value, -ce, -B/data."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return [(name, value if equals else None)]
    found: list[tuple[str, str | None]] = []
    for i, letter in enumerate(word[1:], 2):
        name = _SHORT.get(letter, letter)
        if name in _VALUES:
            return [*found, (name, word[i:] or None)]
        found.append((name, None))
    return found


def _set_value(request: Request, name: str, value: str | None) -> None:
    if not value:
        raise RunError(f"Option --{name} needs a value", remedy=_REMEDY)
    if name == "bind":
        request.binds += binds.parse(value)
    elif name == "home":
        request.home = binds.parse_home(value)
    elif name == "pwd":
        request.directory = value
    elif value in STRATEGIES:
        request.mount_with = value
    else:
        known = " or ".join(STRATEGIES)
        raise RunError(f"Cannot mount with {value}", remedy=f"Say --mount-with {known}.")


def _no_option(word: str, name: str) -> RunError:
    if name in _FLAGS:
        return RunError(f"Option --{name} takes no value", remedy=_REMEDY)
    guess = nearest(name, [*_FLAGS, *_VALUES, *_TEXTS])
    why = f"Did you mean --{guess}?" if guess else ""
    return RunError(f"There is no option {word}", why=why, remedy=_REMEDY)


def _occupy_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from being given to our own files where the caller has closed them.

    The stand-ins are close-on-exec, so the program finds them closed as well.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
