"""Launches that player.c makes again: inside as Python makes them, and Python's whenever unsure."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from singrun.environment.assignments import EXEC
from singrun.recordings import form
from tests.bench import singrun_images as images
from tests.bench.host import accounts, shared_directory, wait_until
from tests.bench.singrun_images import Person, Word

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a compiler"),
]
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
PROBE = """
env; pwd; umask; ulimit -a; cat /proc/self/mountinfo /proc/self/limits; id
grep -E '^(Uid|Gid|Groups|Sig|Shd|Cap|NoNew|Seccomp|Umask|Name)' /proc/self/status
cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups /etc/passwd /etc/group
for fd in /proc/self/fd/*; do readlink "$fd"; done
stat -c '%A %u %g %n' / /* /etc/* /home/* "$HOME" .; printf '<%s>' "$@"
"""
CHANGES = (
    *("mount", "umount2", "unshare", "pivot_root", "move_mount", "open_tree", "mount_setattr"),
    *("fsopen", "fsmount", "fsconfig", "mkdir", "mkdirat", "symlink", "symlinkat", "prctl"),
    *("chdir", "fchdir", "utimensat", "write", "setns", "setresuid", "setresgid", "setgroups"),
)
LOOKS = (
    *(
        "newfstatat",
        "stat",
        "lstat",
        "statx",
        "openat",
        "open",
        "openat2",
        "readlink",
        "readlinkat",
    ),
    *("access", "faccessat", "faccessat2", "statfs", "connect"),
)


class Desk:
    """An ordinary user, an installation with the player and one without."""

    def __init__(self, place: Path, user: str) -> None:
        self.place = place
        places = [place / "with", place / "without"]
        for each in places:
            each.mkdir()
        self.user = Person(user, images.installed_with_player(places[0]))
        self.player = places[0] / "singrun/recordings/player"
        self.plain = Person(user, images.installed(places[1]))
        self.recordings = Path(f"/var/tmp/singrun-launches-{self.user.uid}")
        self.cache = Path(self.user.home, "cache")
        for person in (self.user, self.plain):
            person.variables["SINGRUN_CACHEDIR"] = str(self.cache)
        tree = images.fill(place / "tree")
        self.by_script = images.ext3(tree, place / "script.img")
        (tree / "bin/sh").unlink()
        images.copy_program(Path("/bin/dash"), tree, "bin/dash")
        (tree / "bin/sh").symlink_to("dash")
        images.write_script(tree / ".singularity.d/actions/exec", EXEC)
        (tree / ".singularity.d/env/50-paths.sh").write_text(
            'export WITH="$FROM_CALLER and $NOWHERE"\nexport LANG=C.UTF-8\n'
        )
        self.by_data = images.ext3(tree, place / "data.img")
        self.site = place / "site.conf"
        self.policy = place / "policy"
        self.apparmor = place / "apparmor"
        for each in places:
            self._replace(each / "singrun/images/image.py", "/etc/singrun.policy", self.policy)
            recording = each / "singrun/recordings/recording.py"
            self._replace(recording, APPARMOR, self.apparmor)
            subprocess.run([images.PYTHON, "-m", "compileall", "-q", each], check=True)
        self.warm()

    @staticmethod
    def _replace(source: Path, path: str, other: Path) -> None:
        text = source.read_text()
        assert path in text
        source.write_text(text.replace(path, str(other)))

    def variant(self, name: str, change: Callable[[Path], object]) -> Path:
        """Pack another image that can be recorded, with a change of its files."""
        tree = self.place / f"{name}.tree"
        shutil.copytree(self.place / "tree", tree, symlinks=True)
        change(tree)
        image = images.ext3(tree, self.place / f"{name}.img")
        assert not self.plain.singrun("warm", image).returncode
        return image

    def warm(self) -> None:
        for image in (self.by_script, self.by_data):
            assert not self.plain.singrun("warm", image).returncode

    def forget(self) -> None:
        shutil.rmtree(self.recordings, ignore_errors=True)

    def recorded(self, image: Path, *more: Word, person: Person | None = None) -> Path:
        """Launch once; the recording that this makes."""
        self.forget()

        def is_recorded() -> bool:  # not where a file has only just been changed
            assert not (person or self.user).singrun("exec", *more, image, "true").returncode
            return bool(self.noted())

        wait_until(is_recorded, 10)
        (recording,) = self.noted()
        return recording

    def noted(self) -> list[Path]:
        """Return the recordings, and not what else is noted there."""
        names = list(self.recordings.iterdir()) if self.recordings.exists() else []
        return [
            each
            for each in names
            if re.fullmatch("[0-9a-f]{16}", each.name) and each.stat().st_size > 99
        ]

    def trace(self, person: Person, *words: Word, calls: Sequence[str]) -> list[str]:
        """Return the calls of a launch, as strace writes them with the paths of descriptors."""
        with tempfile.NamedTemporaryFile(dir="/var/tmp", mode="r", errors="replace") as file:
            Path(file.name).chmod(0o666)
            names = ",".join(f"?{each}" for each in ("execve", *calls))
            strace = ["strace", "-qq", "-y", "-s", "4096", "-o", file.name, "-e", f"trace={names}"]
            done = person.call(*strace, person.launcher, *words)
            assert done.returncode == 0, done
            return file.read().splitlines()

    def is_played(self, *words: Word, person: Person | None = None, **options: object) -> bool:
        """Whether no Python had a part in a launch, which must succeed."""
        with tempfile.NamedTemporaryFile(dir="/var/tmp", mode="r", errors="replace") as file:
            Path(file.name).chmod(0o666)
            one = person or self.user
            strace = ["strace", "-f", "-qq", "-o", file.name, "-e", "trace=execve"]
            done = one.call(*strace, one.launcher, *words, **options)  # type: ignore[arg-type]
            assert done.returncode == 0, done
            return "python" not in re.sub(r"recordings/player.*", "", file.read())


@pytest.fixture(scope="module")
def module_desk() -> Iterator[Desk]:
    with shared_directory() as place, images.ordinary_user() as user:
        desk = Desk(place, user)
        yield desk
        desk.forget()


@pytest.fixture
def desk(module_desk: Desk) -> Iterator[Desk]:
    desk = module_desk
    desk.forget()
    for person in (desk.user, desk.plain):
        person.variables = {"SINGRUN_CACHEDIR": str(desk.cache), "FROM_CALLER": "a b"}
    with accounts():  # /etc/passwd is a fact, and other tests make users
        yield desk
    for path in (desk.policy, desk.site, desk.apparmor):
        path.unlink(missing_ok=True)


@pytest.fixture(params=["by_script", "by_data"])
def image(request: pytest.FixtureRequest, desk: Desk) -> Path:
    path: Path = getattr(desk, request.param)
    return path


def test_links_of_the_image_that_lead_to_the_host_are_python_s(desk: Desk) -> None:
    """What the image's scripts say then is the caller's to change at any time."""
    scripts = Path(desk.user.home, "scripts.sh")
    link = ".singularity.d/env/60-link.sh"
    image = desk.variant("links", lambda tree: (tree / link).symlink_to(scripts))
    for value in ("one", "two"):
        scripts.write_text(f"export LINKED={value}\n")
        scripts.chmod(0o644)
        assert f"LINKED={value}\n" in desk.user.output("exec", image, "env")
        assert not desk.is_played("exec", image, "true")


@pytest.mark.parametrize(
    "options",
    [["--pwd", "/tmp"], ["-c"], ["--env", "A=b"], ["-B", "/usr:/tmp/nested"], ["--writable-tmpfs"]],
)
def test_launches_that_are_not_plain_are_python_s(desk: Desk, options: list[str]) -> None:
    nested = Path("/tmp/nested")
    nested.mkdir(exist_ok=True)
    try:
        for _ in range(4):
            assert not desk.is_played("exec", *options, desk.by_data, "true")
    finally:
        nested.rmdir()
    assert not desk.noted()


def seen(person: Person, image: Path, *options: Word, **more: object) -> str:
    """What a program sees, without what differs from one process to the next."""
    words = ("sh", "-c", PROBE, "sh", "a b", "", "*")
    done = person.singrun("exec", *options, image, *words, **more)  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (0, b""), done
    text = done.stdout.decode(errors="surrogateescape")
    text = re.sub(r"/proc/\d+/", "/proc/PID/", text)
    text = re.sub(r"^\d+ \d+ (\d+:)\d+ ", r"\1 ", text, flags=re.MULTILINE)  # ids of mounts
    return re.sub(r"pipe:\[\d+\]|\w\w\w +\d+ \d\d:\d\d|\d+ -> ", "", text)


OPTIONS = [
    [],
    ["-B", "/usr/share:/data:ro"],  # a place is missing in the image's root
    ["-B", "/usr/share:/home/other/more,/etc/hosts:/etc/deep/er/hosts"],
    ["--no-home"],
    ["--no-mount", "sys"],
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_sees_the_same_whoever_launches_it(
    desk: Desk, image: Path, options: list[str]
) -> None:
    desk.recorded(image, *options)
    assert desk.is_played("exec", *options, image, "true")
    assert seen(desk.user, image, *options) == seen(desk.plain, image, *options)


@pytest.mark.parametrize("umask", [0, 0o077, 0o027])
def test_umask_directory_and_odd_variables_are_the_callers(
    desk: Desk, image: Path, umask: int
) -> None:
    for person in (desk.user, desk.plain):
        person.variables |= {"PYTHONHOME": "/x", "LANG": "de", "R_LIBS_USER": "/r", "EMPTY": ""}
        person.variables |= {"NEWLINE": "a\nb=c", "PATH": "/usr/bin:/bin", "LATIN": "\udcff"}
    wait_until(lambda: desk.is_played("exec", image, "true", cwd="/tmp", umask=umask), 10)
    for _ in range(2):
        texts = [seen(each, image, umask=umask, cwd="/tmp") for each in (desk.user, desk.plain)]
        assert texts[0] == texts[1]
    assert desk.is_played("exec", image, "true", cwd="/tmp", umask=umask)


def test_signals_that_the_caller_ignores_stay_ignored(desk: Desk, image: Path) -> None:
    desk.recorded(image)
    script = 'trap "" INT PIPE XFSZ CHLD HUP; exec "$@"'
    look = ("exec", image, "grep", "-E", "^Sig(Ign|Blk|Cgt)", "/proc/self/status")
    answers = [
        person.call("sh", "-c", script, "sh", person.launcher, *look).stdout
        for person in (desk.user, desk.plain)
    ]
    assert answers[0] == answers[1] != b""


def changes(lines: list[str]) -> list[str]:
    """The calls that change something, from the first namespace to the program."""
    start = next(n for n, line in enumerate(lines) if line.startswith("unshare("))
    rows = [line for line in lines[start:] if line.startswith(tuple(f"{c}(" for c in CHANGES))]
    rows = [
        re.sub(r"/proc/(self/fd/)?\d+", r"/proc/\1N", re.sub(r"\b\d+<", "<", line)) for line in rows
    ]
    rows = [re.sub(r"0x\w+", "0x", row) for row in rows]
    rows = [re.sub(r'"fd", "\d+"', '"fd", "N"', row) for row in rows]
    rows = [re.sub(r"(mkdir|symlink)at\((.*?, )?AT_FDCWD<[^>]*>, ", r"\1(\2", row) for row in rows]
    return [re.sub(r" += \d+.*", "", row.replace(", NULL)", ', "")')) for row in rows]


def test_both_make_the_same_system_calls(desk: Desk, image: Path) -> None:
    desk.recorded(image)
    words = ("exec", image, "true")
    played = changes(desk.trace(desk.user, *words, calls=CHANGES))
    assert played == changes(desk.trace(desk.plain, *words, calls=CHANGES))
    assert len(played) > 30


def fields(recording: Path) -> list[str]:
    data = recording.read_bytes()[len(form.MAGIC) + 16 :]
    return data.decode(errors="surrogateescape").split("\0")


def test_each_file_that_python_looks_at_is_a_fact(desk: Desk, image: Path) -> None:
    recorded = set(fields(desk.recorded(image)))
    lines = desk.trace(desk.plain, "exec", image, "true", calls=(*LOOKS, "unshare", "rt_sigaction"))
    begin = max(n for n, line in enumerate(lines) if "SIGCHLD, {sa_handler=SIG_DFL" in line)
    last = next(n for n, line in enumerate(lines) if n > begin and line.startswith("execve("))
    needless = re.compile(
        # boot: what it says of a tree is true for as long as the boot, which is a fact.
        r"/dev/null|/proc/(self|sys|\d+)\b.*|/|image|tree|boot|setgroups|[ug]id_map|.*/player|"
        + str(desk.cache)
        + ".*"
    )
    paths = {
        match[1]
        for line in lines[begin:last]
        if (match := re.match(r'(?!write|rt_)\w+\((?:[^"]*)"([^"]+)"', line))
    }
    unknown = {p for p in paths if p not in recorded and not needless.fullmatch(p)}
    unknown -= {p for p in unknown if p.lstrip("/") in recorded}  # in the image
    # Where instances of this image would be met, nothing is below these.
    assert not {p for p in unknown if not any(r.startswith(f"{p}/") for r in recorded)}
    assert {"/etc/passwd", "/etc/resolv.conf", "etc/passwd", str(image)} <= paths
