"""What a copied source brings stays; only what a build's own programs did is normalised."""

from __future__ import annotations

import json
import pickle
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from singbuild import Rootfs, SourceError
from singbuild.ext3.writer.seal import seal
from singbuild.testing.engine import Recorder
from singbuild.tree.normalise import REASONS, normalise
from tests.bench.builds import SINGBUILD, Build, User
from tests.bench.docker_images import (
    archive,
    directory,
    file,
    hardlink,
    image,
    opaque,
    symlink,
    whiteout,
    write_layout,
)
from tests.bench.host import random_numbers
from tests.bench.seal_trees import acl
from tests.host.registries.test_docker_build import LOWER, UPPER, Facts
from tests.host.registries.test_docker_umoci import umoci

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).parents[3]
CREATED = 1_600_000_000  # of tests.bench.docker_images: the epoch of a build
LATER, MUCH_LATER = CREATED + 50_000_000, 4_000_000_000
APPLETS = ("sh", "mkdir", "cat", "test", "echo", "true", "touch", "ln", "rm")
NOBODY = 0xFFFFFFFF  # ACL_UNDEFINED_ID: of an entry that names no id
BYTECODE = b"\xa7\r\r\n" + bytes(4) + LATER.to_bytes(4, "little") + bytes(8)
DEFAULT_ACL = "SCHILY.xattr.system.posix_acl_default"
MINIMAL, MASKED, OF_A_USER = (
    {DEFAULT_ACL: acl(*entries).decode(errors="surrogateescape")}
    for entries in (
        ((1, 7, NOBODY), (4, 7, NOBODY), (32, 1, NOBODY)),
        ((1, 7, NOBODY), (4, 7, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY)),
        ((1, 7, NOBODY), (2, 6, 5), (4, 7, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)),
    )
)
VOLATILE = archive(
    directory("./", mtime=1_500_000_001),
    *(directory(name, mtime=1_500_000_002) for name in ("etc", "var", "var/log", "run", "root")),
    *(directory(name, mode=0o1777, mtime=1_500_000_003) for name in ("tmp", "var/tmp")),
    file("tmp/data", b"author", mtime=LATER),
    hardlink("data", "tmp/data", mtime=LATER),
    symlink("tmp/link", "data"),
    directory("tmp/dir", mtime=MUCH_LATER),
    file("tmp/dir/deep", uid=5, gid=6, mtime=MUCH_LATER),
    file("tmp/z-file", mtime=LATER),
    hardlink("a-link-of-another-time", "tmp/z-file", mtime=7, mode=0o777, uid=9),
    directory("set-group-id", mode=0o2775, gid=7),
    file("set-group-id/nobody-named/file", gid=3),
    directory("minimal", pax_headers=MINIMAL),
    directory("masked", mode=0o2755, gid=7, pax_headers=MASKED),
    *(file(f"{name}/nobody-named/nor-this/file") for name in ("minimal", "masked")),
    directory("minimal/named"),
    directory("no-more", pax_headers=MASKED),
    *(directory(f"removed{name}", mode=0o700, uid=5, gid=7) for name in ("", "/below")),
    file("var/tmp/data", pax_headers={"SCHILY.xattr.user.mine": "hello"}),
    file("run/state"),
    *(directory(f"root/.cache{name}") for name in ("", "/torch", "/pip", "/pip/http")),
    *(directory(f"var/{name}") for name in ("log/apt", "lib", "lib/apt", "lib/apt/lists")),
    *(directory(f"var/cache{name}") for name in ("", "/apt", "/apt/archives")),
    directory("opt"),
    file("root/.cache/torch/model"),
    file("root/.cache/pip/http/answer"),
    file("var/log/app.log", b"first run\n", mode=0o640, mtime=LATER),
    file("var/log/apt/history.log", b"history\n"),
    file("var/lib/apt/lists/index", b"index\n"),
    file("var/cache/apt/archives/x.deb"),
    file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n", mtime=LATER),
    file("etc/passwd-", b"root:x:0:0::/root:/bin/sh\n"),
    file("etc/.pwd.lock", b"", mode=0o600),
    file("etc/shadow", b"root:*:20000:0:99999:7:::\n", mode=0o640, gid=42),
    file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n", mode=0o444),
    file("opt/module.pyc", BYTECODE, mtime=LATER),
    file("opt/module.py", b"", mtime=LATER),
    directory("bin"),
    file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
    *(symlink(f"bin/{name}", "busybox") for name in APPLETS),
)
UPPERMOST = archive(
    file("minimal/of-another-layer/file"),
    directory("no-more"),
    file("no-more/nobody-named/file"),
    hardlink("b-link-across-layers", "tmp/z-file", mtime=8),
    hardlink("c-link", "var/log/app.log", mtime=9),
    file("var/log/app.log", b"of this layer\n", mtime=LATER + 1),
    hardlink("d-link", "opt/module.py", mtime=10),
    whiteout("opt/module.py"),
    whiteout("removed"),
    file("removed/below/new"),
    directory("tmp/dir", mode=0o700, mtime=LATER),
    directory("tmp/dir", mode=0o750, mtime=LATER + 2),
    directory("tmp", mode=0o1777, mtime=LATER + 3),
)
OURS = (".singularity.d", *("singularity", "environment", ".exec", ".run", ".shell", ".test"))
MOUNT_POINTS = {
    *("dev", "proc", "sys", "home", "lost+found"),
    *(f"etc/{name}" for name in ("group", "hosts", "resolv.conf", "localtime")),
}


def mounted_facts(built: Path) -> Facts:
    """What the kernel shows of an image."""
    script = (
        "import pickle, sys; from pathlib import Path\n"
        "from tests.host.registries.test_docker_build import facts\n"
        "sys.stdout.buffer.write(pickle.dumps(facts(Path('/mnt'))))"
    )
    line = 'mount -t ext3 -o loop,ro,noload "$1" /mnt && exec "$2" -c "$3"'
    argv = ["unshare", "-m", "sh", "-c", line, "-", str(built), sys.executable, script]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, check=True)
    result: Facts = pickle.loads(done.stdout)
    return result


def in_seconds(result: Facts) -> Facts:
    """Facts with whole seconds, which is what an image holds."""
    return {
        name: tuple(
            value // 10**9 if number == 2 and isinstance(value, int) else value
            for number, value in enumerate(fact)
        )
        for name, fact in result.items()
    }


def timeless(result: Facts, umocis: Facts, begin: float) -> Facts:
    """Facts without the times of directories that no layer names, which umoci makes now."""
    return {
        name: (*fact[:2], None, *fact[3:])
        if stat.S_ISDIR(fact[0])
        and isinstance(at := umocis[name][2], int)
        and begin <= at + 1 < MUCH_LATER
        else fact
        for name, fact in result.items()
        if name in umocis
    }


@pytest.mark.root_itself("it mounts the image")
def test_an_image_without_sections_is_the_layers_tree(singbuild: Build, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"one": image(LOWER, UPPER, VOLATILE, UPPERMOST)})
    (tmp_path / "a.def").write_text(f"Bootstrap: oci\nFrom: {layout}:one\n")
    done = singbuild("a.def", "a.img")
    assert done.returncode == 0, done.stderr
    assert "normalised" not in done.stdout
    begin = time.time()
    expected = in_seconds(umoci(f"{layout}:one", tmp_path))
    result = in_seconds(mounted_facts(tmp_path / "a.img"))
    record = singbuild("inspect", "--json", "a.img").stdout
    assert "normalised" not in record
    added = {name for name in result if name not in expected}
    assert {name for name in added if not name.startswith(OURS)} == MOUNT_POINTS
    assert expected["tmp/dir/deep"][2] == MUCH_LATER
    assert expected["a-link-of-another-time"][2] == expected["d-link"][2] == LATER
    assert stat.S_IMODE(expected["set-group-id/nobody-named"][0]) == 0o2755
    assert stat.S_IMODE(expected["masked/nobody-named"][0]) == 0o2750
    assert len(expected["masked/nobody-named/nor-this"][3]) == 2
    assert not expected["no-more/nobody-named"][3]
    assert timeless(result, expected, begin) == timeless(expected, expected, begin)
    (tmp_path / "b.def").write_text("Bootstrap: localimage\nFrom: a.img\n")
    done = singbuild("b.def", "b.img")
    assert done.returncode == 0, done.stderr
    again = in_seconds(mounted_facts(tmp_path / "b.img"))
    assert timeless(again, expected, begin) == timeless(expected, expected, begin)


@pytest.mark.root_itself("it compares an ordinary user's image with root's")
@pytest.mark.parametrize("mode", ["subuid", "one-id"])
def test_layers_become_the_same_image_without_root(mode: str, user: User, tmp_path: Path) -> None:
    layout = write_layout(
        user.directory / "layout", {"one": image(LOWER, UPPER, VOLATILE, UPPERMOST)}
    )
    text = f"Bootstrap: oci\nFrom: {layout}:one\n"
    argv = [*SINGBUILD, "-q", "--no-cache", "-", str(tmp_path / "root.img")]
    subprocess.run(argv, input=text, text=True, check=True)
    process = user.start("--no-cache", "--privilege", mode, "-", "a.img")
    output = process.communicate(text)[1]
    assert process.returncode == 0, output
    assert (user.directory / "a.img").read_bytes() == (tmp_path / "root.img").read_bytes()


@pytest.mark.root_itself("it compares an ordinary user's image with root's")
def test_an_acl_of_an_id_that_is_not_mapped_is_left_out_and_told(user: User) -> None:
    layer = archive(directory("acl", pax_headers=OF_A_USER), file("acl/new/file"))
    layout = write_layout(user.directory / "layout", {"one": image(LOWER, layer)})
    process = user.start("--no-cache", "--privilege", "one-id", "-", "a.img")
    output = process.communicate(f"Bootstrap: oci\nFrom: {layout}:one\n")
    assert process.returncode == 0, output
    assert "the attribute system.posix_acl_default is left out" in output[1]
    inside = mounted_facts(user.directory / "a.img")
    assert [inside[name][3] for name in ("acl", "acl/new")] == [{}, {}]


def random_layer(chance: random.Random, files: set[str]) -> bytes:
    """Return a layer; files: regular ones that the layers have so far."""

    def fields(*modes: int) -> dict[str, Any]:
        attribute = {f"SCHILY.xattr.user.{chance.choice('ab')}": chance.choice(("x", "yy"))}
        return {
            "mtime": CREATED + chance.choice((-1000, -5, 777, 50_000_000)),
            "mode": chance.choice(modes),
            "uid": chance.choice((0, 5)),
            "gid": chance.choice((0, 7)),
            "pax_headers": attribute if not chance.randrange(5) else {},
        }

    entries = [] if files else [symlink("l", "a", mtime=5), directory("a"), directory("tmp")]
    for _ in range(chance.randrange(3, 12)):
        kind = chance.randrange(9)
        name = chance.choice(("f", "a/f", "a/g", "l/h", "m.pyc", "new/f", "new/deep/f", "tmp/f"))
        if kind < 3:
            entries.append(file(name, name.encode() * chance.randrange(3), **fields(0o644, 0o4755)))
            files.add(name)
        elif kind < 5 and (others := sorted(files - {name})):
            entries.append(hardlink(name, chance.choice(others), **fields(0o644, 0o600)))
            files.add(name)
        elif kind < 7:
            name = chance.choice(("./", "a", "new", "new/deep", "tmp", "tmp/sub", "var/log"))
            more = {"pax_headers": OF_A_USER} if not chance.randrange(4) else {}
            entries.append(directory(name, **fields(0o755, 0o700, 0o2775, 0o1777) | more))
        elif kind < 8 and files:
            name = chance.choice(sorted(files))
            entries.append(whiteout(name))
            files.discard(name)
        elif entries:
            name = chance.choice(("a", "new", "new/deep", "tmp"))
            entries.append(chance.choice((whiteout, opaque))(name))
            files -= {each for each in files if each.startswith(f"{name}/")}
    return archive(*entries)


@pytest.mark.root_itself("it mounts the image")
def test_random_layers_become_umocis_tree(tmp_path: Path) -> None:
    chance, compared = random_numbers(), 0
    begin = time.time()
    for number in range(16):
        place = tmp_path / str(number)
        (place / "tree").mkdir(parents=True)
        files: set[str] = set()
        layers = [random_layer(chance, files) for _ in range(chance.randrange(1, 4))]
        rootfs = Rootfs(place / "tree", Recorder(), epoch=CREATED)
        try:
            rootfs.unpack([[layer] for layer in layers], whiteouts=True)
        except SourceError:
            continue  # a link to what is not there
        write_layout(place / "layout", {"one": image(*layers)})
        expected = in_seconds(umoci(f"{place}/layout:one", place))
        normalise(rootfs, CREATED)
        times = rootfs.baseline.times(rootfs.root)
        sealed = seal(rootfs.root, place / "image", epoch=CREATED, times=times)
        result = in_seconds(mounted_facts(sealed.path))
        assert set(result) - set(expected) == {"lost+found"}
        assert timeless(result, expected, begin) == timeless(expected, expected, begin), number
        compared += 1
    assert compared > 4


BUILD_RECORD = "/.singularity.d/build.json"  # says that the build was resumed
TEXT = """Bootstrap: oci
From: {layout}:one
%files
    given /tmp/given
%post
    {first}
    test -e /tmp/given && test -e /tmp/data
    mkdir -p /tmp/made/below /var/lib/apt/lists/partial /root/.cache/pip/http-v2 /var/cache/dnf
    echo more >> /tmp/data
    echo own > /tmp/dir/own
    ln -s /etc/passwd /tmp/made/link
    touch /run/lock /var/lib/apt/lists/partial/x /root/.cache/pip/http-v2/x /var/cache/dnf/x
    echo second >> /var/log/app.log
    echo new > /var/log/new.log
    echo model > /root/.cache/torch/other
    echo changed > /etc/passwd-
    echo typed > /root/.bash_history
    echo /var/cache/dnf >> /.singularity.d/keep
%test
    echo x > /tmp/tested
"""
STAYS = {
    "tmp/given": b"given\n",
    "tmp/data": b"authormore\n",
    "data": b"authormore\n",
    "tmp/dir/deep": b"data",
    "var/tmp/data": b"data",
    "run/state": b"data",
    "root/.cache/torch/model": b"data",
    "root/.cache/torch/other": b"model\n",
    "root/.cache/pip/http/answer": b"data",
    "var/log/app.log": b"",
    "var/log/new.log": b"",
    "var/log/apt/history.log": b"history\n",
    "var/lib/apt/lists/index": b"index\n",
    "var/cache/dnf/x": b"",
    "etc/.pwd.lock": b"",
    "etc/shadow": b"root:*:20000:0:99999:7:::\n",
    "etc/machine-id": b"0123456789abcdef0123456789abcdef\n",
    "opt/module.pyc": BYTECODE,
}
GOES = [
    *("tmp/made", "tmp/dir/own", "tmp/tested", "run/lock", "var/lib/apt/lists/partial"),
    *("root/.cache/pip/http-v2/x", "etc/passwd-", "root/.bash_history"),
]


def tree_of(built: Path, where: Path) -> Path:
    where.mkdir()
    words = [sys.executable, "-m", "singbuild", "export", str(built)]
    export = subprocess.Popen(words, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", str(where), "-xpf", "-"], stdin=export.stdout, check=True)
    assert export.wait() == 0
    return where


@pytest.fixture
def write(tmp_path: Path, recipe: Callable[[str], Path]) -> Callable[[str], Path]:
    """Write the recipe; first: the first line of %post."""
    layout = write_layout(tmp_path / "layout", {"one": image(VOLATILE)})
    (tmp_path / "given").write_text("given\n")
    return lambda first: recipe(TEXT.format(layout=layout, first=first))


def test_what_programs_did_is_normalised_told_and_can_be_kept(
    singbuild: Build, write: Callable[[str], Path], tmp_path: Path
) -> None:
    done = singbuild("--no-cache", write("true"), "a.img")
    assert done.returncode == 0, done.stderr
    tree = tree_of(tmp_path / "a.img", tmp_path / "tree")
    assert {name: (tree / name).read_bytes() for name in STAYS} == STAYS
    assert [name for name in GOES if (tree / name).exists()] == []
    assert stat.S_IMODE((tree / "var/log/app.log").stat().st_mode) == 0o640
    assert (tree / "opt/module.py").stat().st_mtime == LATER
    assert (tree / "var/log/app.log").stat().st_mtime == CREATED
    report = json.loads((tree / ".singularity.d/build.json").read_text())["normalised"]
    assert {"/tmp", "/var/log", "/etc/machine-id", "/etc/passwd-", "/var/cache/apt"} <= set(report)
    # Kept, and two whose place the image has not.
    assert not {"/var/cache/dnf", "/var/cache/yum", "/var/lib/dpkg/status-old"} & set(report)
    assert report.items() <= REASONS.items()
    assert "normalised: /tmp (2): temporary files" in done.stdout
    assert "normalised: /var/tmp" not in done.stdout


def test_stages_and_a_resumed_build_give_the_same_image(
    singbuild: Build,
    write: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    path = write("true")
    assert singbuild("--no-cache", path, "a.img").returncode == 0
    assert singbuild(path, "b.img").returncode == 0
    for missing, latest in ((["image"], "post"), (["image", "post"], "files")):
        for note in (tmp_path / "cache/stages").glob("*.json"):
            if json.loads(note.read_text())["name"] in missing:
                note.unlink()
        again = singbuild("--force", path, "c.img")
        assert f"cache: {latest}: hit" in again.stdout
        assert (tmp_path / "c.img").read_bytes() == (tmp_path / "a.img").read_bytes()
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    failing = write("touch /tmp/half /run/half; echo half > /var/log/app.log; false")
    assert singbuild("--on-error=keep", failing, "d.img").returncode != 0
    assert singbuild("--resume", write("true"), "d.img").returncode == 0
    changed = singbuild("diff", "--json", "a.img", "d.img").stdout
    assert [each["path"] for each in json.loads(changed)["files"]] == [BUILD_RECORD]


def test_what_only_one_of_two_runs_leaves_makes_no_difference(
    singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """The image's record, too, holds nothing that differs from run to run."""
    product = recipe(
        'Bootstrap: busybox\n%setup\n    cd "$SINGBUILD_ROOTFS"; mkdir -p -m 1777 tmp run\n'
        f"    test ! -e {tmp_path}/flag || touch tmp/left run/left\n"
    )
    first = singbuild("--no-cache", product, "a.img")
    (tmp_path / "flag").touch()
    second = singbuild("--no-cache", product, "b.img")
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert "normalised: /tmp (1)" in second.stdout
    assert "normalised" not in first.stdout
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
