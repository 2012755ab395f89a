"""What --help prints: an overview, or one verb's usage, options and examples."""

import textwrap

from singrun.options import FLAGS, SHORT, VALUES

VERBS = {  # usage, what it does, examples
    "exec": (
        "IMAGE COMMAND...",
        "Run a command in an image.",
        (
            "singrun exec debian.img cat /etc/os-release",
            "singrun exec -B /data debian.img ls /data",
        ),
    ),
    "run": (
        "IMAGE [ARG...]",
        "Run the image's runscript with these arguments. So does: ./IMAGE [ARG...]",
        ("singrun run service_lookup.img ^http", "./service_lookup.img ^http"),
    ),
    "shell": (
        "IMAGE [ARG...]",
        "Start a shell in an image; the arguments are the shell's.",
        ("singrun shell debian.img", "singrun shell --contain debian.img -c 'ls ~'"),
    ),
    "test": ("IMAGE [ARG...]", "Run the image's test.", ("singrun test debian.img",)),
    "env": (
        "IMAGE",
        "Print the variables that a program in the image sees.",
        ("singrun env debian.img", "singrun env --why PATH debian.img"),
    ),
    "mount": (
        "IMAGE DIRECTORY [COMMAND...]",
        "Show the image at a directory, to one command or shell and for as long as it runs.",
        ("singrun mount debian.img /mnt", "singrun mount -w my.img ~/mnt cp file ~/mnt/srv/"),
    ),
    "instance": (
        "start|run|list|stop|stats …",
        "Instances, in the words of Singularity 3 and Apptainer: start one and its startscript, "
        "or run its runscript in one; list them, stop them, say what they take.",
        (
            "singrun instance start debian.img web",
            "singrun instance list --json",
            "singrun instance list --logs 'w*'",
            "singrun instance stop --timeout 30 web",
            "singrun instance stop --force --all",
            "singrun instance stats --json web",
        ),
    ),
    "start": (
        "IMAGE [NAME [ARG...]]",
        "Start an instance: namespaces that later commands enter, by IMAGE or instance://NAME. "
        "The image's startscript runs in it, with the arguments.",
        ("singrun start debian.img", "singrun exec debian.img ps", "singrun stop debian.img"),
    ),
    "stop": (
        "IMAGE|NAME...|--all",
        "End an instance and all that runs in it; with --all each of yours.",
        ("singrun stop debian.img", "singrun stop instance://web"),
    ),
    "instances": (
        "",
        "List your instances.",
        ("singrun start debian.img web", "singrun instances"),
    ),
    "warm": (
        "IMAGE",
        "Unpack an image into your cache now, so that later starts find it there.",
        ("singrun warm debian.img", "runuser -u $SLURM_JOB_USER singrun warm /images/debian.img"),
    ),
    "help": (
        "[VERB|IMAGE]",
        "Print this list, what a verb takes, or the text of an image's section %help.",
        ("singrun help exec", "singrun help debian.img"),
    ),
    "cache": (
        "list|du|prune|clean [KIND...]",
        "Say what launches keep on disk, or make room: unpacked images (tree), images of "
        "registries (image), the output of instances (log). What is in use stays. prune removes "
        "trees, down to the limit, and what is old; clean removes trees and images, or the kinds "
        "that are named.",
        (
            "singrun cache list",
            "singrun cache du --json",
            "singrun cache prune --size 5G --older 30 --dry-run",
            "singrun cache clean tree",
        ),
    ),
    "config": (
        "show",
        "Say what the site's file and your variables set, and where each value comes from.",
        ("singrun config show", "singrun config show --json"),
    ),
    "doctor": (
        "",
        "Say what this host can do, and what would help.",
        ("singrun doctor", "singrun doctor --mpi mpi.img"),
    ),
}
GROUPS = {  # options: the value's name, "" for none; what it does
    "File": {
        "bind": (
            "SRC[:DST[:ro]]",
            "show a file or directory of the host; with ro,image-src=DIR of an image; commas",
        ),
        "mount": (
            "WORDS",
            "type=bind,source=SRC,target=DST[,readonly][,image-src=DIR]; repeatable",
        ),
        "home": (
            "[SRC:]DST",
            "show SRC as the home DST; without SRC the host's DST if it is there, else your home",
        ),
        "no-home": ("", "do not share the home directory"),
        "no-mount": (
            "NAME",
            "leave out proc, sys, dev, tmp, home, cwd, hostfs, bind-paths or a path such as "
            "/etc/hosts; commas",
        ),
        "scratch": ("DIR", "an empty directory of its own; repeatable, commas"),
        "workdir": ("DIR", "keep --scratch, and --contain's home and /tmp, in DIR"),
        "pwd": ("DIR", "start in DIR inside the image; also --cwd"),
        "writable": ("", "write to the image itself"),
        "writable-tmpfs": ("", "write to memory, gone afterwards"),
        "overlay": ("PATH[:ro]", "write to a directory or ext3 image laid over the image"),
        "contain": ("", "empty home and /tmp, a minimal /dev, no current directory"),
        "containall": ("", "--contain --pid --ipc --cleanenv"),
        "compat": ("", "--containall --writable-tmpfs --no-umask"),
    },
    "Environment": {
        "cleanenv": ("", "pass no more of the environment than names user and terminal"),
        "env": ("NAME=VALUE", "set a variable; repeatable, commas"),
        "env-file": ("FILE", "set the variables in FILE, lines of NAME=VALUE; repeatable"),
        "eval": ("", "let the image's shell evaluate $ and ` in variables that win over its own"),
        "no-eval": ("", "do not let it, which is the default"),
    },
    "Identity": {
        "fakeroot": ("", "be root inside, with the ids lent to you, if any, as other users"),
        "security": ("uid:N|gid:N", "be this user and group inside"),
        "add-caps": ("NAMES", "keep capabilities, for one's own files and processes; all, commas"),
        "drop-caps": ("NAMES", "lose capabilities; all, commas"),
        "no-privs": ("", "the same as --drop-caps all"),
        "keep-privs": ("", "accepted: root keeps its capabilities anyway"),
        "as-caller": ("", "through sudo: as the user who called sudo"),
        "userns": ("", "a user namespace, which an ordinary user has anyway"),
    },
    "Namespace": {
        "pid": ("", "a PID namespace of its own"),
        "no-pid": ("", "no PID namespace, though --containall or --compat asks for one"),
        "ipc": ("", "an IPC namespace of its own"),
        "uts": ("", "a host name of its own"),
        "hostname": ("NAME", "this host name, as with --uts"),
        "net": ("", "a network namespace of its own, with loopback alone"),
        "network": ("none", "the same; no other network can be had"),
        "network-args": ("WORDS", "accepted: loopback takes none"),
        "dns": ("ADDRESS", "the name servers in /etc/resolv.conf; commas"),
        "join": ("", "share one mount with equal launches, as the ranks of a job step do"),
        "no-join": ("", "share with nobody, in a job step or by way of a started instance"),
    },
    "Resource": {
        "memory": (
            "BYTES",
            "the most memory, with K, M, G; limits need a cgroup that is delegated",
        ),
        "memory-reservation": ("BYTES", "memory that the kernel takes away last"),
        "memory-swap": ("BYTES", "the most memory and swap together; -1 for any"),
        "cpus": ("NUMBER", "the most processor time, as a number of processors"),
        "cpu-shares": ("NUMBER", "the share of processors, where others want them, too"),
        "cpuset-cpus": ("LIST", "the only processors, as 0-3,7"),
        "cpuset-mems": ("LIST", "the only memory nodes"),
        "pids-limit": ("NUMBER", "the most processes; -1 for any"),
        "blkio-weight": ("NUMBER", "the share of disks, 10 to 1000"),
    },
    "Hardware": {
        "nv": ("", "bring in the host's NVIDIA driver: libraries, devices, programs"),
        "rocm": ("", "bring in the host's AMD driver"),
        "no-nv": ("", "not even where the site's file says: always use nv"),
        "no-rocm": ("", "not even where the site's file says: always use rocm"),
        "device": ("NAME", "a device that a vendor describes: vendor.com/class=name; commas"),
        "cdi-dirs": ("DIRS", "where descriptions are, not /etc/cdi and /var/run/cdi; commas"),
        "fabric": ("", "bring in the host's libraries and devices of the fast network"),
    },
    "Image": {
        "mount-with": ("HOW", "loop, fuse2fs, squashfuse or unpack, instead of what fits best"),
        "fetch": ("", "fetch an image of a registry (docker://NAME) again, even if it is cached"),
        "disable-cache": ("", "the same as --fetch"),
        "no-https": ("", "fetch it by plain http, if its registry speaks no https"),
        "contents": ("", "compare the whole image with what it records before it runs"),
        "unsquash": ("", "accepted; see --mount-with"),
        "underlay": ("", "accepted; missing mount points are made so anyway"),
    },
    "Program": {
        "app": (
            "NAME",
            "run, test or start this app of the image, or a command in its environment",
        ),
        "shell": ("PATH", "the shell to start"),
        "why": ("NAME", "print which layer set this variable"),
        "pid-file": ("FILE", "write the number of the instance's process there"),
        "no-umask": ("", "with the umask 022, not the caller's"),
        "no-init": ("", "accepted: process 1 of --pid is small, and reaps orphans"),
        "plan": ("", "print every mount with its reason, and do nothing"),
        "debug": ("", "say on standard error what is done"),
    },
}
OPTIONS = {name: row for rows in GROUPS.values() for name, row in rows.items()}
_JSON = ("", "print one JSON object")
OWN = {  # options of verbs that are no launch
    "cache": {
        "json": _JSON,
        "dry-run": ("", "of prune and clean: remove nothing, say what would go"),
        "size": ("SIZE", "of prune: keep trees of at most SIZE"),
        "older": ("DAYS", "of prune: remove what was not used in DAYS, images too"),
        "all": ("", "of clean: remove the output of instances too"),
    },
    "config": {"json": _JSON},
    "doctor": {
        "json": _JSON,
        "mpi": ("IMAGE", "say whether the host's mpirun and Slurm go with the image's MPI"),
    },
    "instances": {"json": _JSON},
}
ONLY = {"pid-file": ("start",), "shell": ("shell",), "why": ("env",)}  # options of one verb
MOUNT_TAKES = ("writable", "mount-with", "contents", "debug")
STATUS = """\
Exit status: the command's own; 128+N when signal N killed it, as the shell
shows it; 127 command not found, 126 not executable; 1 when singrun was called
wrongly; 255 when it could not start the command, with the reason on standard
error.
"""
_INDENT, _WIDTH = 29, 88


def overview() -> str:
    """Return what ``singrun --help`` prints."""
    lines = [textwrap.wrap(what, _WIDTH - 13) for _, what, _ in VERBS.values()]
    texts = dict(zip(VERBS, (f"\n{'':13}".join(each) for each in lines)))
    verbs = "".join(f"  {name:11}{what}\n" for name, what in texts.items())
    return (
        "Usage: singrun [-d] VERB [OPTIONS] IMAGE [ARGUMENTS]\n"
        "       singrun ./IMAGE [ARGUMENTS]    the same as: singrun run ./IMAGE\n\n"
        "Runs programs in an image as the calling user. IMAGE is a file that singbuild\n"
        "made, a bare ext3, a Singularity 2.x image, a SIF, a squashfs, a directory, or an\n"
        "image of a registry or an archive: docker://NAME, oci:DIR, docker-archive:FILE.\n\n"
        f"Verbs (singrun VERB --help tells more of each):\n{verbs}\n"
        "Options stand before IMAGE; what follows IMAGE belongs to the command.\n\n"
        f"{_options([*OPTIONS])}Options:\n{_line('-h, --help', 'this text')}"
        f"{_line('    --version', 'the version')}\n{STATUS}"
    )


def text(verb: str) -> str:
    """Return what ``singrun VERB --help`` prints."""
    usage, what, examples = VERBS[verb]
    lines = [
        f"Usage: singrun {verb} [OPTIONS] {usage}".rstrip(),
        "",
        textwrap.fill(what, _WIDTH),
        "",
    ]
    if names := options_of(verb):
        lines += [_options(names).rstrip("\n"), ""]
    for name, (value, does) in OWN.get(verb, {}).items():
        lines += ["Options:"] if lines[-1] == "" else []
        lines += [_line(f"    --{name} {value}".rstrip(), does).rstrip()]
    lines += [""] if verb in OWN else []
    lines += ["Examples:", *(f"  {each}" for each in examples), "", STATUS]
    return "\n".join(lines)


def options_of(verb: str) -> list[str]:
    """Return the names of the options that a verb takes."""
    if verb in ("cache", "config", "doctor", "help", "stop", "instance", "instances"):
        return []
    if verb == "mount":
        return [*MOUNT_TAKES]
    if verb == "warm":
        return ["fetch", "no-https", "contents"]
    return [name for name in OPTIONS if verb in ONLY.get(name, (verb,))]


def spelled(name: str) -> str:
    """Return an option with its short form and its value's name."""
    letter = next((short for short, long in SHORT.items() if long == name), "")
    value = OPTIONS[name][0]
    return (f"-{letter}, " if letter else "    ") + f"--{name}" + (f" {value}" if value else "")


def _options(names: list[str]) -> str:
    """Return their lines, one list for each group that has some."""
    assert {*OPTIONS} == {*FLAGS, *VALUES}, "every option has its help"
    text = ""
    for title, rows in GROUPS.items():
        lines = [_line(spelled(name), what) for name, (_, what) in rows.items() if name in names]
        text += f"{title} options:\n{''.join(lines)}\n" if lines else ""
    return text


def _line(option: str, what: str) -> str:
    lines, line = [], f"  {option:{_INDENT - 4}}  "
    for word in what.split():
        if len(line) + len(word) > _WIDTH:
            lines.append(line.rstrip())
            line = " " * _INDENT
        line += f"{word} "
    return "\n".join([*lines, line.rstrip()]) + "\n"
