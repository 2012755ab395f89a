"""The options of a launch: their names, and what each does to a Request."""

import os

from singrun.environment import variables
from singrun.errors import RunError, UsageError, nearest, say
from singrun.images import strategies
from singrun.mounts import binds, launch_table
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Setting = tuple[str, "str | None"]  # an option's name and its value

REMEDY = "See: singrun --help"
PREFIXES = ("SINGRUN_", "APPTAINER_", "SINGULARITY_")  # of variables: the first with a value counts
# What stands behind a prefix, and gives no option: read elsewhere, or set inside, where a launch
# may be made as well.
_NO_OPTIONS = (
    *("APPNAME", "COMMAND", "CONTAINER", "ENVIRONMENT", "NAME", "ROOTFS"),
    *("CACHEDIR", "CACHESIZE", "CONFIG", "PLAYER", "LIBRARY", "TMPDIR", "PULLFOLDER", "PULLDIR"),
    *("DOCKER_USERNAME", "DOCKER_PASSWORD"),
)
TEXTS = ["help", "version"]
SHORT = {
    "B": "bind",
    "C": "containall",
    "H": "home",
    "S": "scratch",
    "W": "workdir",
    "c": "contain",
    "d": "debug",
    "e": "cleanenv",
    "f": "fakeroot",
    "h": "help",
    "i": "ipc",
    "n": "net",
    "o": "overlay",
    "p": "pid",
    "s": "shell",
    "u": "userns",
    "w": "writable",
}
ALIASES = {"cwd": "pwd", "nohttps": "no-https", "sharens": "join", "nvccli": "nv"}
FLAGS = {  # the parts of a Request, and the attributes in them; none: singrun does that anyway
    "no-home": [("mounts", "no_home")],
    "contain": [("mounts", "contain")],
    "containall": [
        ("mounts", "contain"),
        ("isolation", "pid"),
        ("isolation", "ipc"),
        ("variables", "clean"),
    ],
    "compat": [
        ("mounts", "contain"),
        ("isolation", "pid"),
        ("isolation", "ipc"),
        ("variables", "clean"),
        ("program", "no_umask"),
        ("image", "writable_tmpfs"),
    ],
    "cleanenv": [("variables", "clean")],
    "pid": [("isolation", "pid")],
    "no-pid": [("isolation", "no_pid")],
    "ipc": [("isolation", "ipc")],
    "uts": [("isolation", "uts")],
    "userns": [],
    "net": [("isolation", "net")],
    "fakeroot": [("isolation", "fakeroot")],
    "keep-privs": [("isolation", "keep_privs")],
    "no-privs": [("isolation", "no_privs")],
    "writable": [("image", "writable")],
    "writable-tmpfs": [("image", "writable_tmpfs")],
    "nv": [("hardware", "nv")],
    "rocm": [("hardware", "rocm")],
    "fabric": [("hardware", "fabric")],
    "no-nv": [("hardware", "no_nv")],
    "no-rocm": [("hardware", "no_rocm")],
    "join": [("isolation", "join")],
    "no-join": [("isolation", "no_join")],
    "as-caller": [("isolation", "as_caller")],
    "no-init": [],
    "no-umask": [("program", "no_umask")],
    "no-eval": [],
    "eval": [("variables", "evaluate")],
    "underlay": [],
    "unsquash": [],
    "fetch": [("image", "fetch")],
    "contents": [("image", "contents")],
    "disable-cache": [("image", "fetch")],
    "no-https": [("image", "no_https")],
    "plan": [("", "plan")],
    "debug": [("", "debug")],
}
_YES, _NO = ("1", "t", "true", "y", "yes", "on"), ("0", "f", "false", "n", "no", "off")


def take(words: list[str], settings: "list[Setting]") -> "list[str] | str":
    """Append the leading options to ``settings``.

    Return the words after them, or the name of a text that is asked for.
    """
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        for spelled, value in _in_word(word):
            name = ALIASES.get(spelled, spelled)
            if name in TEXTS:
                return name
            if name in VALUES:
                if value is None and not rest:
                    raise UsageError(f"Option --{spelled} needs a value", remedy=REMEDY)
                settings.append((name, rest.pop(0) if value is None else value))
            elif name in FLAGS and (value is None or value.lower() in (*_YES, *_NO)):
                settings.append((name, value))
            else:
                raise _no_option(word, name)
    return rest


def apply(request: Request, settings: "list[Setting]") -> None:
    """Set in the request what the settings say; the value of a flag says yes or no."""
    for name, value in settings:
        if name in VALUES:
            if not value and name != "bind":  # scripts say --bind "$BINDS", perhaps with none
                raise UsageError(f"Option --{name} needs a value", remedy=REMEDY)
            VALUES[name](request, value or "")
            continue
        wish = (value or "yes").lower()
        if wish not in (*_YES, *_NO):
            raise RunError(f"Cannot understand {name} {value}", remedy="Say yes or no.")
        for part, attribute in FLAGS[name]:
            setattr(getattr(request, part) if part else request, attribute, wish in _YES)


def variables_of_options() -> list[str]:
    """Return the variables of the environment that give an option, or seem to."""
    names = [name for name in os.environ if name.startswith(PREFIXES)]
    return [name for name in names if name.partition("_")[2] not in _NO_OPTIONS]


def _in_word(word: str) -> "list[Setting]":
    """Return the options in one word: --name, --name=value, -ce, -B/data, -B=/data."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return [(name, value if equals else None)]
    settings: list[Setting] = []
    for i, letter in enumerate(word[1:], 2):
        name = SHORT.get(letter, letter)
        if name in VALUES:
            return [*settings, (name, word[i:].removeprefix("=") if word[i:] else None)]
        settings.append((name, None))
    return settings


def _bind(request: Request, value: str) -> None:
    request.mounts.binds += binds.parse(value)


def _mount(request: Request, value: str) -> None:
    request.mounts.binds += binds.parse_mount(value)


def _home(request: Request, value: str) -> None:
    request.mounts.home = binds.parse_home(value)


def _overlay(request: Request, value: str) -> None:
    path, colon, mode = value.rpartition(":")
    is_path = not colon or mode not in ("ro", "rw")
    request.image.overlays.append((value, False) if is_path else (path, mode == "ro"))


def _scratch(request: Request, value: str) -> None:
    request.mounts.scratch += [binds.target(word) for word in binds.split(value, ",")]


def _no_mount(request: Request, value: str) -> None:
    for word in value.split(","):
        if word not in launch_table.NAMES and not word.startswith("/"):
            names = ", ".join(launch_table.NAMES)
            raise RunError(f"Cannot understand --no-mount {word}", remedy=f"Say a path or {names}.")
        request.mounts.no_mount.append(word)


def _env(request: Request, value: str) -> None:
    pairs = variables.pairs(value, "--env")
    request.variables.assignments += [(name, text, "--env") for name, text in pairs]


def _env_file(request: Request, value: str) -> None:
    place = sum(layer != "--env" for _, _, layer in request.variables.assignments)
    request.variables.assignments[place:place] = variables.read_file(value)


def _mount_with(request: Request, value: str) -> None:
    if value not in strategies.NAMES:
        names = " or ".join(strategies.NAMES)
        raise RunError(f"Cannot mount with {value}", remedy=f"Say --mount-with {names}.")
    request.image.mount_with = value


def _hostname(request: Request, value: str) -> None:
    request.isolation.uts, request.isolation.hostname = True, value


def _network(request: Request, value: str) -> None:
    request.isolation.net = True
    if value != "none":
        why = "It needs the host's privilege and CNI, and singrun has neither."
        remedy = "Say --network none for loopback alone, or leave --net out for the host's network."
        raise RunError(f"There is no network {value}", why=why, remedy=remedy)


def _network_args(request: Request, value: str) -> None:  # noqa: ARG001
    say(f"Without effect: --network-args {value}, as loopback alone takes none")


def _dns(request: Request, value: str) -> None:
    for word in value.split(","):
        if not word or word.strip("0123456789abcdefABCDEF.:%"):
            raise RunError(f"Cannot use --dns {word}", remedy="Give addresses, commas between.")
        request.mounts.dns.append(word)


def _security(request: Request, value: str) -> None:
    for word in value.split(","):
        kind, _, text = word.partition(":")
        if kind not in ("uid", "gid"):
            why = (
                "It takes uid:N and gid:N; singrun loads no profile of SELinux, AppArmor, seccomp."
            )
            raise RunError(f"Cannot obey --security {word}", why=why, remedy="Leave it out.")
        is_number = text.isascii() and text.isdecimal() and len(text) <= 10
        if not is_number or int(text) >= 0xFFFFFFFF:
            raise RunError(f"Cannot understand --security {word}", remedy=f"Say {kind}:NUMBER.")
        setattr(request.isolation, kind, int(text))


def _add_caps(request: Request, value: str) -> None:
    from singrun.namespaces import capabilities  # few ask

    request.isolation.add_caps += capabilities.parse(value)


def _drop_caps(request: Request, value: str) -> None:
    from singrun.namespaces import capabilities

    request.isolation.drop_caps += capabilities.parse(value)


def _device(request: Request, value: str) -> None:
    request.hardware.devices += value.split(",")


def _cdi_directories(request: Request, value: str) -> None:
    request.hardware.cdi_directories = value.split(",")


def _limit(name: str) -> "Callable[[Request, str], None]":
    def set_limit(request: Request, value: str) -> None:
        request.isolation.limits[name] = value

    return set_limit


def _workdir(request: Request, value: str) -> None:
    request.mounts.workdir = os.path.abspath(value)


def _pid_file(request: Request, value: str) -> None:
    request.program.pid_file = os.path.abspath(value)


def _pwd(request: Request, value: str) -> None:
    request.program.directory = value


def _shell(request: Request, value: str) -> None:
    request.program.shell = value


def _app(request: Request, value: str) -> None:
    if "/" in value or value.startswith("."):
        raise RunError(f"Cannot start the app {value}", why="It is no name of an app.")
    request.program.app = value


def _why(request: Request, value: str) -> None:
    if not variables.is_identifier(os.fsencode(value)):
        raise RunError(f"Cannot ask --why {value}", why="It is no name of a variable.")
    request.program.why = value


VALUES: "dict[str, Callable[[Request, str], None]]" = {
    "bind": _bind,
    "mount": _mount,
    "home": _home,
    "overlay": _overlay,
    "scratch": _scratch,
    "workdir": _workdir,
    "no-mount": _no_mount,
    "env": _env,
    "env-file": _env_file,
    "mount-with": _mount_with,
    "hostname": _hostname,
    "device": _device,
    "cdi-dirs": _cdi_directories,
    "network": _network,
    "network-args": _network_args,
    "dns": _dns,
    "security": _security,
    "add-caps": _add_caps,
    "drop-caps": _drop_caps,
    "pid-file": _pid_file,
    "pwd": _pwd,
    "shell": _shell,
    "why": _why,
    "app": _app,
}


# A cgroup of its own has these; namespaces/limits.py.
LIMITS = [
    *("memory", "memory-reservation", "memory-swap", "cpus", "cpu-shares", "cpuset-cpus"),
    *("cpuset-mems", "pids-limit", "blkio-weight"),
]
VALUES |= {name: _limit(name) for name in LIMITS}


# Of Singularity 3 and Apptainer, and not of singrun: why.
REFUSED = {
    "allow-setuid": "Set-user-ID programs never gain anything here (no_new_privs).",
    "apply-cgroups": "Say the limits themselves: --memory, --cpus, --pids-limit.",
    "authfile": "Name the file by a variable: REGISTRY_AUTH_FILE.",
    "blkio-weight-device": "singrun limits all disks alike: --blkio-weight.",
    "boot": "An instance starts the image's %startscript and no init.",
    "containlibs": "Bind the libraries, and name their directory: --bind, --env.",
    "docker-login": "Log in first: singularity registry login.",
    "fusemount": "Mount it on the host, and share it by --bind.",
    "netns-path": "Enter that namespace first: nsenter --net=PATH singrun …",
    "no-oci": "No image is run by an OCI runtime; leave it out.",
    "no-setgroups": "Groups stay as they are; leave it out.",
    "no-tmp-sandbox": "--mount-with says how an image is mounted.",
    "oci": "No image is run by an OCI runtime; leave it out.",
    "oom-kill-disable": "Cgroups of version 2 cannot do that.",
    "passphrase": "singrun reads no encrypted images.",
    "pem-path": "singrun reads no encrypted images.",
    "sif-fuse": "--mount-with says how an image is mounted.",
    "tmp-sandbox": "An image is unpacked by --mount-with unpack.",
    "tmpdir": "Name the directory by a variable: SINGBUILD_TMPDIR.",
    "vm": "singrun starts no virtual machine.",
}


def _no_option(word: str, name: str) -> UsageError:
    if name in REFUSED:
        return UsageError(f"There is no option {word}", why=REFUSED[name], remedy=REMEDY)
    if name in FLAGS:
        return UsageError(f"Option --{name} takes no value", remedy=REMEDY)
    guess = nearest(name, [*FLAGS, *VALUES, *ALIASES, *TEXTS])
    why = f"Did you mean --{guess}?" if guess else ""
    return UsageError(f"There is no option {word}", why=why, remedy=REMEDY)
