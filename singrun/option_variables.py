"""Options that variables give: SINGULARITY_BIND, APPTAINER_BIND, SINGRUN_BIND and so on.

An option on the command line is preferred to its variable; those of --bind and --mount count
together. Whether a flag's variable says yes or no is options.apply()'s to read.
"""

import os

from singrun import options
from singrun.errors import RunError, nearest, say
from singrun.request import Request

OPTIONS = {  # what stands behind the prefix; the option
    "ADD_CAPS": "add-caps",
    "APP": "app",
    "BIND": "bind",
    "BINDPATH": "bind",
    "BLKIO_WEIGHT": "blkio-weight",
    "CDI_DIRS": "cdi-dirs",
    "CLEANENV": "cleanenv",
    "COMPAT": "compat",
    "CONTAIN": "contain",
    "CONTAINALL": "containall",
    "CPUS": "cpus",
    "CPUSET_CPUS": "cpuset-cpus",
    "CPUSET_MEMS": "cpuset-mems",
    "CPU_SHARES": "cpu-shares",
    "CWD": "pwd",
    "DEBUG": "debug",
    "DEVICE": "device",
    "DISABLE_CACHE": "disable-cache",
    "DNS": "dns",
    "DROP_CAPS": "drop-caps",
    "ENV_FILE": "env-file",
    "FAKEROOT": "fakeroot",
    "HOME": "home",
    "HOSTNAME": "hostname",
    "IPC": "ipc",
    "KEEP_PRIVS": "keep-privs",
    "MEMORY": "memory",
    "MEMORY_RESERVATION": "memory-reservation",
    "MEMORY_SWAP": "memory-swap",
    "MOUNT": "mount",
    "NET": "net",
    "NETWORK": "network",
    "NETWORK_ARGS": "network-args",
    "NOHTTPS": "no-https",
    "NOSHIMINIT": "no-init",
    "NO_EVAL": "no-eval",
    "NO_HOME": "no-home",
    "NO_MOUNT": "no-mount",
    "NO_NV": "no-nv",
    "NO_PRIVS": "no-privs",
    "NO_ROCM": "no-rocm",
    "NO_UMASK": "no-umask",
    "NV": "nv",
    "NVCCLI": "nv",
    "NV_OFF": "no-nv",
    "OVERLAY": "overlay",
    "OVERLAYIMAGE": "overlay",
    "PID": "pid",
    "PIDS_LIMIT": "pids-limit",
    "PWD": "pwd",
    "ROCM": "rocm",
    "ROCM_OFF": "no-rocm",
    "SCRATCH": "scratch",
    "SCRATCHDIR": "scratch",
    "SECURITY": "security",
    "SHARENS": "join",
    "SHELL": "shell",
    "TARGET_CWD": "pwd",
    "TARGET_PWD": "pwd",
    "UNSHARE_IPC": "ipc",
    "UNSHARE_NET": "net",
    "UNSHARE_PID": "pid",
    "UNSHARE_USERNS": "userns",
    "UNSHARE_UTS": "uts",
    "USERNS": "userns",
    "UTS": "uts",
    "WORKDIR": "workdir",
    "WRITABLE": "writable",
    "WRITABLE_TMPFS": "writable-tmpfs",
}
_TOGETHER = ("bind", "mount")
_CONTRARIES = (
    *(("nv", "no-nv"), ("rocm", "no-rocm"), ("join", "no-join"), ("home", "no-home")),
    *(("keep-privs", "no-privs"), ("writable", "writable-tmpfs")),
)


def apply(request: Request, names: list[str]) -> None:
    """Set the options that variables, ``names``, give and the command line does not.

    One that means nothing is named on standard error.
    """
    for name in names:
        prefix, _, word = name.partition("_")
        option = OPTIONS.get(word, "")
        if not option:
            _report(name, word)
        elif option not in _TOGETHER and _is_said(option, request.option_names):
            continue
        elif os.environ[name] and _is_first(prefix, word):
            _apply(request, option, name)


def in_environment() -> "list[tuple[str, str, str]]":
    """Return the options that variables give: each with its value and the variable."""
    rows = []
    for name, value in os.environ.items():
        prefix, _, word = name.partition("_")
        if (
            name.startswith(options.PREFIXES)
            and word in OPTIONS
            and value
            and _is_first(prefix, word)
        ):
            rows.append((f"--{OPTIONS[word]}", value, name))
    return rows


def _is_said(option: str, names: "list[str]") -> bool:
    """Whether the command line, by the names of its options, has this one or its contrary."""
    pair = next((pair for pair in _CONTRARIES if option in pair), (option,))
    return any(each in names for each in pair)


def _is_first(prefix: str, word: str) -> bool:
    """Whether no other variable that means the same is preferred to this one."""
    above = options.PREFIXES[: options.PREFIXES.index(f"{prefix}_")]
    return not any(os.environ.get(each + word) for each in above)


def _apply(request: Request, option: str, name: str) -> None:
    before = len(request.mounts.binds)
    try:
        options.apply(request, [(option, os.environ[name])])
    except RunError as error:
        error.what = f"${name}: {error.what}"
        raise
    for bind in request.mounts.binds[before:]:
        bind.why = f"${name}"


def _report(name: str, word: str) -> None:
    guess = nearest(word, [*OPTIONS])
    hint = f"; did you mean {name[: -len(word)]}{guess}?" if guess else "."
    say(f"The variable {name} has no effect{hint}")
