"""The command line: words to a Request, errors to text and status 255."""

import errno
import os
import sys

from singrun import __version__, errors, options, recordings, syscalls
from singrun.enter import enter
from singrun.environment.inherited import SIGCHLD, SIGINT, restore_signals
from singrun.errors import RunError, UsageError, say
from singrun.identity import Caller
from singrun.namespaces import meeting_places
from singrun.options import REMEDY
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import NoReturn

_VERBS = ["exec", "run", "shell", "test", "env", "mount", "start", "warm"]
_SPELLING = "--spelling="
# Those that take no image and print what they find.
_DESCRIBED_VERBS = ["cache", "config", "doctor", "instance", "instances", "stop"]
_ALONE = ["env", "warm"]  # those after whose image no command comes: options may
_HELP = "/.singularity.d/runscript.help"
_SHOW_HELP = f"""[ ! -f {_HELP} ] || exec cat {_HELP}
echo 'The image has no help: its recipe had no section %help.' >&2
exit 1"""


def main() -> "NoReturn":
    """Run the command line. Never returns."""
    restore_signals(SIGINT)
    syscalls.signal_default(SIGCHLD)  # ignored, the kernel would reap, and no status be known
    _occupy_standard_descriptors()
    status = errors.STATUS
    try:
        request = _parsed(_spelled(sys.argv[1:]))
        outcome = request if isinstance(request, str) else _launch_or_explain(request)
        os.write(1, outcome.encode("utf-8", "surrogateescape"))
        status = 0
    except RunError as error:
        say(str(error), "FATAL")
        status = error.status
    except OSError as error:
        what = f"Cannot start: {error}"
        remedy = "singrun --debug VERB IMAGE shows what was done before."
        if error.errno == errno.ENOENT and not error.filename and not _is_in_a_directory():
            what, remedy = "The current directory has been removed", "Go to one that is there."
        elif error.errno == errno.ENOSYS:
            remedy = "This kernel is too old; singrun doctor names the version that it needs."
        elif error.errno in (errno.EFBIG, errno.EMFILE, errno.EAGAIN, errno.ENOMEM):
            remedy = "A limit may be too low: see ulimit -a."
        say(f"{what}\n  {remedy}", "FATAL")
    except Exception:
        sys.excepthook(*sys.exc_info())
        say("This is a bug in singrun; please report it with the lines above.", "FATAL")
    recordings.let_go()
    os._exit(status)


def _is_in_a_directory() -> bool:
    """Whether the current directory has a name."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _spelled(words: list[str]) -> list[str]:
    """Return the words without bin/singularity's own: --spelling=NAME[:quiet|:silent]."""
    if not words or not words[0].startswith(_SPELLING):
        return words
    spelling, _, manner = words[0][len(_SPELLING) :].partition(":")
    errors.speak_as(spelling, manner)
    return words[1:]


def _parsed(words: list[str]) -> "Request | str":
    """Parse; behind sudo with the rights of the user who called it, as options name files."""
    if "--as-caller" not in words or os.geteuid() or "SUDO_UID" not in os.environ:
        return parse(words)
    caller = Caller(as_caller=True)
    caller.lower_rights()
    request = parse(words)
    if isinstance(request, str) or not request.isolation.as_caller:
        caller.restore_rights()
    return request


def parse(words: list[str]) -> "Request | str":
    """Return the request that the words make, or the text that they ask for."""
    request = Request()
    settings: list[options.Setting] = []
    program = request.program
    rest = options.take(words, settings)
    if isinstance(rest, str):
        return _text(rest, "")
    if rest and "/" in rest[0]:
        program.verb, request.image.path, program.arguments = "run", rest[0], rest[1:]
        return _with_options(request, settings)
    if not rest:
        raise UsageError("No verb was given", remedy=REMEDY)
    if rest[0] == "start" or rest[:2] in (["instance", "start"], ["instance", "run"]):
        program.instance = ""
        rest = rest[rest[0] == "instance" :]
    elif rest[0] in _DESCRIBED_VERBS:
        return _describe(*rest)
    if rest[0] == "help":
        return _help(request, rest[1:])
    program.verb = _verb(rest[0], words)
    rest = options.take(rest[1:], settings)
    if isinstance(rest, str):
        return _text(rest, program.verb)
    if not rest:
        raise UsageError(f"No image was given to {program.verb}", remedy=REMEDY)
    request.image.path, program.arguments = rest[0], rest[1:]
    if program.verb in _ALONE and program.arguments:
        program.arguments = _after_image(program.verb, program.arguments, settings)
    if program.verb == "exec":
        _check_command(request, settings)
    if program.verb == "mount" and not program.arguments:
        what = f"No directory was given to mount {request.image.path} at"
        raise UsageError(what, remedy=REMEDY)
    return _with_options(request, settings)


def _with_options(request: Request, settings: "list[options.Setting]") -> Request:
    """Set the options of the environment, and those of the command line over them."""
    request.option_names = [name for name, _ in settings]
    names = options.variables_of_options()
    if names and request.program.verb not in ("mount", "warm"):
        from singrun import option_variables

        option_variables.apply(request, names)
    options.apply(request, settings)
    if request.isolation.no_pid:  # of --containall, --compat or a variable
        request.isolation.pid = False
    if request.hardware.devices:
        from singrun.hardware import cdi  # it imports json

        cdi.apply(request)
    image = request.image
    if (image.writable or image.overlays) and "writable-tmpfs" not in request.option_names:
        image.writable_tmpfs = False  # that of --compat or of a variable
    return request


def _launch_or_explain(request: Request) -> str:
    verb, image = request.program.verb, request.image
    starts = request.program.instance is not None
    may_join = verb not in ("mount", "warm") and not (starts or request.isolation.no_join)
    if may_join and (":" in image.path or meeting_places.may_have_instance(image.path)):
        from singrun import instances  # few have one

        instances.join(request)
    if ":" in image.path:
        from singrun.images import pulled

        if pulled.is_source(image.path):
            _check_no_sudo(request, image.path)
            image.path = pulled.fetched(image.path, anew=image.fetch, plain=image.no_https)
    # An absolute path is no name in a library; to test it here would cost its directory, which may
    # be on the network, one more look-up.
    if image.path[:1] != "/" and not os.path.exists(image.path):
        from singrun.images import library

        as_caller = request.isolation.as_caller
        image.path = library.find(image.path, enforce=not as_caller) or image.path
    if verb in ("mount", "warm"):
        _check_no_sudo(request, verb)
    if verb == "mount":
        from singrun.verbs import mount  # only who asks pays for it

        mount.show(request)
    if verb == "warm":
        from singrun.verbs import warm

        return warm.warm(request)
    if starts:
        from singrun import instances

        _check_no_sudo(request, "start", "Start it as the caller, without sudo.")
        instances.check_name(request)
    return enter(request)


def _check_no_sudo(request: Request, word: str, remedy: str = "") -> None:
    if request.isolation.as_caller:
        remedy = remedy or "Do it as the caller, without sudo, and name the file that comes of it."
        raise RunError(f"Cannot combine --as-caller with {word}", remedy=remedy)


def _text(name: str, verb: str) -> str:
    """Return what --help or --version prints."""
    if name == "version":
        return f"singrun {__version__}\n"
    from singrun.verbs import manual  # only who asks pays for it

    return manual.text(verb) if verb else manual.overview()


def _describe(verb: str, *words: str) -> str:
    if words in (("--help",), ("-h",)):
        return _text("help", verb)
    if verb == "cache":
        from singrun.verbs import cache

        return cache.explain([*words])
    if verb == "config":
        from singrun.verbs import settings

        return settings.explain([*words])
    if verb == "instance":
        from singrun.verbs import instance

        return instance.explain([*words])
    from singrun import instances

    if verb == "instances":
        return instances.listing([*words])
    if verb == "stop":
        return instances.stop([*words])
    from singrun.verbs import doctor, mpi_check  # they import what a launch must not

    json, images = "--json" in words, [word for word in words if word != "--json"]
    if len(images) == 2 and images[0] == "--mpi":
        return mpi_check.report(images[1], as_json=json)
    if images:
        remedy = "Say singrun doctor [--json] [--mpi IMAGE]."
        raise UsageError(f"Cannot understand {images[0]}", remedy=remedy)
    return doctor.report(json=json)


def _help(request: Request, words: list[str]) -> "Request | str":
    """Return the help of singrun or of a verb, or the request that prints an image's own."""
    if not words:
        return _text("help", "")
    if words[0] in ("-h", "--help", "help"):
        return _text("help", "help")
    if words[0] in (*_VERBS, *_DESCRIBED_VERBS):
        return _text("help", words[0])
    if not os.path.exists(words[0]) and ":" not in words[0]:
        raise _strangers().no_verb(words[0])
    request.image.path, request.program.verb = words[0], "exec"
    request.program.arguments = ["/bin/sh", "-c", _SHOW_HELP]
    return _with_options(request, [])


def _after_image(verb: str, words: list[str], settings: "list[options.Setting]") -> list[str]:
    """Take options that stand behind the image; nothing else may be there."""
    rest = options.take(words, settings)
    if isinstance(rest, str) or rest:
        raise _strangers().leftover(verb, words)
    return rest


def _check_command(request: Request, settings: "list[options.Setting]") -> None:
    words, image = request.program.arguments, request.image.path
    if not words:
        raise _strangers().no_command(image, settings)
    if words[0].startswith("-"):
        raise _strangers().no_program("exec", image, words)


def _verb(word: str, words: list[str]) -> str:
    if word not in _VERBS:
        raise _strangers().no_verb(word, words)
    return word


def _strangers() -> "ModuleType":
    from singrun.verbs import strangers  # only an error pays for it

    return strangers


def _occupy_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from being given to our own files where the caller has closed them.

    The stand-ins are close-on-exec, so the program finds them closed as well.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
