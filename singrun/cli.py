"""The command line: words to a Request, errors to text and status 255."""

import os
import sys

from singrun import __version__, errors, options
from singrun.enter import enter
from singrun.environment import SIGINT, restore_signals
from singrun.errors import RunError, nearest, say
from singrun.options import REMEDY
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_VERBS = ["exec", "run", "shell", "test", "env"]
_DOCTOR = "doctor"


def main() -> "NoReturn":
    """Run the command line. Never returns."""
    restore_signals(SIGINT)
    _occupy_standard_descriptors()
    status = errors.STATUS
    try:
        request = parse(sys.argv[1:])
        os.write(1, (request if isinstance(request, str) else enter(request)).encode())
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
    rest = options.take(words, request)
    if isinstance(rest, str):
        return _text(rest)
    if rest and "/" in rest[0]:
        request.verb, request.image, request.arguments = "run", rest[0], rest[1:]
        return request
    if not rest:
        raise RunError("What shall be run?", why="No verb was given.", remedy=REMEDY)
    if rest[0] == _DOCTOR:
        return _examined(rest[1:])
    request.verb = _verb(rest[0])
    rest = options.take(rest[1:], request)
    if isinstance(rest, str):
        return _text(rest)
    if not rest:
        raise RunError(f"No image was given to {request.verb}", remedy=REMEDY)
    request.image, request.arguments = rest[0], rest[1:]
    if request.verb == "exec" and not request.arguments:
        raise RunError("No command was given to exec", remedy=REMEDY)
    return request


def _text(name: str) -> str:
    """Return what --help or --version prints."""
    if name == "version":
        return f"singrun {__version__}\n"
    from singrun.manual import HELP  # only who asks pays for it

    return HELP


def _examined(words: list[str]) -> str:
    from singrun import doctor  # it imports what a launch must not

    if words not in ([], ["--json"]):
        raise RunError(f"Cannot understand {words[0]}", remedy="Say singrun doctor [--json].")
    return doctor.report(json=bool(words))


def _verb(word: str) -> str:
    if word in _VERBS:
        return word
    known = [*_VERBS, _DOCTOR]
    guess = nearest(word, known)
    why = f"Did you mean {guess}?" if guess else f"The verbs are {', '.join(known)}."
    remedy = f"An image here is run as: singrun ./{word}" if os.path.exists(word) else REMEDY
    raise RunError(f"There is no verb {word}", why=why, remedy=remedy)


def _occupy_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from being given to our own files where the caller has closed them.

    The stand-ins are close-on-exec, so the program finds them closed as well.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
