"""Real images for the runtime's tests, and a real ordinary user to run them.

The trees hold Debian's static busybox and the actions that
docs/image-format.md prescribes, written out here so that the runtime is tested
against the contract and not against the builder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from tests.bench.host import MEETING_PLACES, PATIENCE, VARIABLE, accounts, shared_directory

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
LAUNCH_LINE = b"#!/usr/bin/env singrun\n"
HEADER_2X = b"#!/usr/bin/env run-singularity\n"
_SOURCE_ENV = '#!/bin/sh\nfor file in /.singularity.d/env/*.sh; do . "$file"; done\n'
ACTIONS = {
    "exec": 'exec "$@"\n',
    "run": 'exec /.singularity.d/runscript "$@"\n',
    "shell": 'exec "${SINGULARITY_SHELL:-/bin/sh}" "$@"\n',
    "test": 'exec /.singularity.d/test "$@"\n',
}
Word = str | bytes | Path
_NUMBERS = itertools.count(1)  # of this process's users
APPLETS = (
    *("sh", "cat", "ls", "id", "echo", "env", "true", "false", "sleep", "yes", "head", "mount"),
    *("stat", "touch", "ps", "test", "sha256sum", "readlink", "kill", "stty", "pwd", "tr", "wc"),
    *("grep", "dd", "mkdir", "rm", "ipcs", "hostname", "tty", "date", "whoami"),
)


def fill(tree: Path) -> Path:
    """Make a complete busybox tree at ``tree``."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "var/tmp", "home/other", "root", "etc"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for applet in set(APPLETS):
        (tree / "bin" / applet).symlink_to("busybox")
    for name in ("hosts", "resolv.conf", "localtime"):
        (tree / "etc" / name).write_text("")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    _fill_metadata(tree / ".singularity.d")
    return tree


def _fill_metadata(directory: Path) -> None:
    (directory / "actions").mkdir(parents=True)
    (directory / "env").mkdir()
    (directory / "env/01-base.sh").write_text("export PATH=/usr/local/bin:/usr/bin:/bin\n")
    (directory / "env/90-environment.sh").write_text("export FROM_IMAGE='yes it is'\n")
    for name, text in ACTIONS.items():
        write_script(directory / "actions" / name, _SOURCE_ENV + text)
    write_script(directory / "runscript", '#!/bin/sh\nprintf "run:"; printf "<%s>" "$@"; echo\n')
    write_script(directory / "test", "#!/bin/sh\nexit 5\n")


def write_script(path: Path, text: str) -> None:
    """Write an executable file."""
    path.write_text(text)
    path.chmod(0o755)


def ext3(tree: Path, image: Path, *, header: bytes = b"", boot: bytes = b"") -> Path:
    """Put ``tree`` into an ext3 image; ``header`` before it, ``boot`` into its boot block."""
    used = sum(f.lstat().st_size + 4096 for f in tree.rglob("*"))
    with image.open("wb") as file:
        file.truncate(used * 2 + (8 << 20))
    features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
    command = ["mke2fs", "-q", "-t", "ext3", "-b", "4096", "-I", "256", "-J", "size=4"]
    subprocess.run([*command, "-O", features, "-d", tree, image], check=True)
    if header:
        image.write_bytes(header + image.read_bytes())
    with image.open("r+b") as file:
        file.write(boot)
    image.chmod(0o755)
    return image


def copy_program(program: Path, tree: Path, name: str) -> None:
    """Copy a program of the host and the libraries that it needs."""
    shutil.copy(program, tree / name)
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for word in listing.split():
        if word.startswith("/"):
            target = tree / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)


class Options(TypedDict, total=False):
    """What a test may ask of subprocess.run."""

    input: bytes
    env: dict[str, str]
    cwd: Word
    umask: int
    preexec_fn: Callable[[], object]


class Person:
    """Somebody who calls singrun: root, or a real ordinary user."""

    def __init__(self, name: str, launcher: Path, options: Sequence[str] = ()) -> None:
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid, self.home = name, entry.pw_uid, entry.pw_gid, entry.pw_dir
        self.launcher, self.options = launcher, list(options)
        self.variables: dict[str, str] = {}

    def words(self, *words: Word) -> list[str | bytes]:
        """Return the command line that becomes this person and executes ``words``."""
        become: list[str | bytes] = []
        if self.uid != os.geteuid():
            become = ["setpriv", "--reuid", self.name, "--regid", str(self.gid), "--init-groups"]
        return [*become, *(os.fspath(word) for word in words)]

    def environment(self) -> dict[str, str]:
        """Return a plain environment as after a login."""
        plain = {"HOME": self.home, "USER": self.name, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
        return plain | self.variables

    def call(self, *words: Word, **options: Unpack[Options]) -> subprocess.CompletedProcess[bytes]:
        """Run any command as this person, from its home, with a time limit."""
        options.setdefault("env", self.environment())
        options.setdefault("cwd", self.home)
        command = self.words(*words)
        return subprocess.run(
            command, check=False, capture_output=True, timeout=120 * PATIENCE, **options
        )

    def singrun(
        self, verb: str, *words: Word, **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``singrun VERB`` with this person's options before ``words``."""
        return self.call(self.launcher, verb, *self.options, *words, **options)

    def output(self, verb: str, *words: Word, **options: Unpack[Options]) -> str:
        """Return what a launch writes; it must succeed and write nothing on standard error."""
        done = self.singrun(verb, *words, **options)
        assert (done.returncode, done.stderr) == (0, b""), done
        return str(done.stdout.decode(errors="surrogateescape"))


def installed(directory: Path) -> Path:
    """Copy the runtime where every user may read it, as a source checkout; its launcher.

    Without the player, which a checkout may have or not.
    """
    (directory / "bin").mkdir()
    shutil.copy(ROOT / "bin/singrun", directory / "bin/singrun")
    ignored = shutil.ignore_patterns("__pycache__", "player")
    shutil.copytree(ROOT / "singrun", directory / "singrun", ignore=ignored)
    subprocess.run([PYTHON, "-m", "compileall", "-q", directory / "singrun"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
    return directory / "bin/singrun"


def installed_with_player(directory: Path) -> Path:
    """Copy the runtime likewise, and compile the program in C that repeats launches; needs cc."""
    launcher = installed(directory)
    place = directory / "singrun/recordings"
    words: list[Word] = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", place / "player"]
    subprocess.run([*words, *place.glob("*.c")], check=True)
    return launcher


def single_file(directory: Path) -> Path:
    """Make the runtime as one file, as ``make singrun.pyz`` does, under the launcher's name."""
    (directory / "single").mkdir()
    single = directory / "single/singrun"
    command: list[Word] = [PYTHON, "-m", "singrun.bundle", single]
    subprocess.run(command, check=True, cwd=ROOT)
    return single


@contextlib.contextmanager
def ordinary_user(prefix: str = "singrun") -> Iterator[str]:
    """Create a throw-away user with a home below /home and a second group; its name.

    Where no user can be made, since the tests are not root's, it is who runs them.
    """
    if os.geteuid():
        yield pwd.getpwuid(os.geteuid()).pw_name
        return
    name = f"{prefix}{os.getpid()}x{next(_NUMBERS)}"
    own: list[Path] = []
    with accounts():
        comment = Path(
            os.environ.get(VARIABLE, "")
        ).name  # a run's janitor knows its accounts by it
        words = ["-m", "-s", "/bin/sh", "-G", "audio", "-c", comment, name]
        subprocess.run(["useradd", *words], check=True)
    try:
        uid = pwd.getpwnam(name).pw_uid
        own = [Path(f"{parent}/singrun-{uid}") for parent in ("/tmp", "/var/tmp")]
        own.append(Path(f"/var/tmp/singrun-launches-{uid}"))
        MEETING_PLACES.append(own[0])
        yield name
        wait_for_daemons(name)
    finally:
        for path in own:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(ValueError):
                MEETING_PLACES.remove(path)
        with accounts():
            subprocess.run(["userdel", "-r", "-f", name], check=True, capture_output=True)


def subordinate_ids(name: str, kind: str) -> list[range]:
    """What useradd lent a user. kind: "uid" or "gid"."""
    lines = Path(f"/etc/sub{kind}").read_text().splitlines()
    numbers = [map(int, x.split(":")[1:]) for x in lines if x.startswith(f"{name}:")]
    return [range(first, first + count) for first, count in numbers]


def without_subordinate_ids(name: str) -> None:
    """Take away what useradd lent a user: the lines in /etc/subuid and /etc/subgid."""
    for kind in ("uid", "gid"):
        for ids in subordinate_ids(name, kind):
            words = [f"--del-sub{kind}s", f"{ids[0]}-{ids[-1]}", name]
            with accounts():
                subprocess.run(["usermod", *words], check=True)


def read(path: Path) -> str:
    """Read a file of the kernel's; "" when what it tells of has just gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def daemons(owner: Path | str) -> list[str]:
    """Return the living FUSE daemons of a user (a name), or of what lies in a directory or image.

    Others' daemons, another run's of these tests among them, are not ours to wait for.
    """
    listing = subprocess.run(
        ["ps", "-eo", "stat=,user:64=,args="], capture_output=True, text=True, check=True
    )
    names = ("fuse2fs", "squashfuse", "fuse-overlayfs")
    rows = []
    for line in listing.stdout.splitlines():
        state, user, words = line.split(None, 2)
        own = str(owner) in words if "/" in str(owner) else user == owner
        if own and state[0] != "Z" and any(name in words for name in names):
            rows.append(line)
    return rows


def wait_for_daemons(owner: Path | str, seconds: float = 20) -> None:
    """Wait until the FUSE daemons have ended, which they do a moment after the program."""
    until = time.monotonic() + seconds * PATIENCE
    while leftovers := daemons(owner):
        assert time.monotonic() < until, f"FUSE daemons are left behind: {leftovers}"
        time.sleep(0.05)


class Bench:
    """All that a test of the runtime needs: a tree, an image of it, root and an ordinary user."""

    def __init__(self, directory: Path, user: str, launcher: Path) -> None:
        self.directory, self.user, self.launcher = directory, user, launcher
        self.tree, self.image = directory / "tree", directory / "image.img"
        self.people = {
            "root, loop": Person("root", launcher),
            "root, fuse2fs": Person("root", launcher, ["--mount-with", "fuse2fs"]),
            "user": Person(user, launcher),
            "user, unpack": Person(user, launcher, ["--mount-with", "unpack"]),
        }

    def variant(self, name: str) -> Path:
        """Return a fresh copy of the tree, to be changed and made into an image."""
        return Path(shutil.copytree(self.tree, self.directory / name, symlinks=True))

    def copy(self, directory: Path) -> Bench:
        """Return one with a tree and an image of its own in a directory."""
        shutil.copytree(self.tree, directory / "tree", symlinks=True)
        subprocess.run(["cp", "--sparse=always", self.image, directory], check=True)
        return Bench(directory, self.user, self.launcher)


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Set all that up, and take it down again."""
    with shared_directory() as directory, ordinary_user() as user:
        new = Bench(directory, user, installed(directory))
        ext3(fill(new.tree), new.image, boot=LAUNCH_LINE)
        yield new
