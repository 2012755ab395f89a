"""What an image, an overlay or a cache of somebody else's cannot do to who runs it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE
from tests.bench.image_trees import mke2fs
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with images.bench() as product:
        yield product


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    with images.ordinary_user("stranger") as name:
        yield name


@pytest.fixture
def victim(bench: Bench) -> Iterator[Path]:
    """A directory that everybody may write, with something in it."""
    place = bench.directory / "victim"
    for name in ("up", "work"):
        (place / name).mkdir(parents=True)
        (place / name).chmod(0o777)
    (place / "up/file").write_text("the host's\n")
    yield place
    shutil.rmtree(place)


def listed(place: Path) -> list[tuple[str, int, int]]:
    """All below a directory: name, size and time of change."""
    result = [(str(path), path.lstat()) for path in sorted(place.rglob("*"))]
    return [(name, status.st_size, status.st_ctime_ns) for name, status in result]


def overlay(bench: Bench, person: Person, kind: str, links: dict[str, Path]) -> Path:
    """Make an overlay, an image or a directory of the person's, of which parts are links."""
    tree = bench.directory / f"overlay-{person.name}"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in ("upper", "work"):
        if name in links:
            (tree / name).symlink_to(links[name])
        else:
            (tree / name).mkdir()
    (tree / "padding").write_bytes(bytes(1 << 20))  # mke2fs wants more than the journal
    product = images.ext3(tree, bench.directory / f"{tree.name}.img") if kind == "image" else tree
    subprocess.run(["chown", "-hR", person.name, product], check=True)
    return product


@pytest.mark.parametrize("who", ["root, loop", "user"])
@pytest.mark.parametrize("kind", ["image", "directory"])
@pytest.mark.parametrize("link", ["upper", "work"])
def test_an_overlay_whose_parts_are_links_leads_nowhere(
    bench: Bench, victim: Path, who: str, kind: str, link: str
) -> None:
    person = bench.people[who]
    layer = overlay(bench, person, kind, {link: victim / ("up" if link == "upper" else "work")})
    before = listed(victim)
    for options in (["-o", layer], ["-o", f"{layer}:ro"], ["-C", "-o", layer]):
        script = "cat /file; echo changed > /file; mkdir /new"
        done = person.singrun("exec", *options, bench.image, "sh", "-c", script)
        assert b"the host's" not in done.stdout, options
        assert listed(victim) == before, options
        if link == "upper" or not str(options[-1]).endswith(":ro"):
            assert (done.returncode, link.encode() in done.stderr) == (255, True), done
    images.wait_for_daemons(str(bench.directory))


def test_a_strangers_cache_is_neither_used_nor_in_the_way(bench: Bench, stranger: str) -> None:
    user, other = bench.people["user"], Person(stranger, bench.launcher)
    cache = bench.directory / "squat"
    fuse = user.output("exec", bench.image, "cat", "/etc/group")
    stamp = Path(user.output("warm", bench.image).strip()).name
    subprocess.run(["rm", "-rf", f"/var/tmp/singrun-{user.uid}"], check=True)
    tree = cache / stamp / "tree"
    shutil.copytree(bench.tree, tree, symlinks=True)
    images.write_script(tree / ".singularity.d/actions/exec", "#!/bin/sh\necho hostile\n")
    subprocess.run(["chown", "-hR", other.name, cache], check=True)
    cache.chmod(0o755)
    (cache / stamp).chmod(0o777)
    environment = user.environment() | {"SINGRUN_CACHEDIR": str(cache)}
    output = user.output("exec", bench.image, "cat", "/etc/group", env=environment)
    assert output == fuse
    forced = ("--mount-with", "unpack", bench.image, "true")
    done = user.singrun("exec", *forced, env=environment)
    assert (done.returncode, b"Cannot use the cache" in done.stderr) == (255, True)
    # The cache itself is given to the user, as a careless prologue would.
    os.chown(cache, user.uid, user.gid)
    cache.chmod(0o700)
    assert user.output("exec", bench.image, "cat", "/etc/group", env=environment) == fuse
    done = user.singrun("exec", *forced, env=environment)
    assert (done.returncode, stamp.encode() in done.stderr) == (255, True), done
    images.wait_for_daemons(str(bench.directory))
    shutil.rmtree(cache)


def test_set_id_bits_do_not_reach_the_cache(bench: Bench) -> None:
    user = bench.people["user"]
    tree = bench.variant("set-ids")
    (tree / "bin/busybox").chmod(0o6755)
    (tree / "var").chmod(0o2755)
    squashfs = bench.directory / "set-ids.sqfs"
    subprocess.run(["mksquashfs", tree, squashfs, "-quiet", "-no-progress"], check=True)
    for image in (squashfs, images.ext3(tree, bench.directory / "set-ids.img")):
        place = Path(user.output("warm", image).strip())
        result = [path.name for path in place.rglob("*") if path.lstat().st_mode & 0o6000]
        assert result == []
        shutil.rmtree(place)


def test_names_in_an_image_reach_the_terminal_in_plain_letters(bench: Bench) -> None:
    user = bench.people["user"]
    image = bench.directory / "\x1b]0;title\x07\udc9b.img"
    shutil.copy(bench.image, image)
    done = user.singrun("exec", "--mount-with", "squashfuse", image, "true")
    assert done.returncode == 255
    assert b"\\x1b]0;title\\x07\\x9b.img" in done.stderr
    # debugfs names the file that it cannot write.
    subprocess.run(
        ["debugfs", "-w", "-f", "-", image],
        input=b"cd /etc\nwrite /etc/hostname \x1b[31mred\n"
        b"set_inode_field \x1b[31mred block[0] 99999999\n",
        check=True,
        capture_output=True,
    )
    done = user.singrun("exec", "--mount-with", "unpack", image, "true")
    assert done.returncode == 255
    assert not {*done.stderr} & {*range(0x09), 0x1B, 0x7F}, done
    image.unlink()


def directory_loop(bench: Bench) -> Path:
    """An image with a directory that holds itself."""
    tree = bench.variant("loop")
    (tree / "a/b").mkdir(parents=True)
    image = images.ext3(tree, bench.directory / "loop.img")
    subprocess.run(
        ["debugfs", "-w", "-R", "link /a /a/b/a", image], check=True, capture_output=True
    )
    return image


def huge_file(bench: Bench) -> Path:
    """An image of a few MB with a file of 100 GB that is one hole."""
    tree = bench.variant("huge")
    with (tree / "hole").open("wb") as file:
        file.truncate(100 << 30)
    status = tree.stat()
    image = bench.directory / "huge.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
    command = ["mke2fs", "-q", "-t", "ext3", "-b", "4096", "-I", "256", "-J", "size=4"]
    subprocess.run([*command, "-O", features, "-d", tree, image], check=True)
    (tree / "hole").unlink()
    assert status
    return image


@pytest.mark.parametrize("make", [directory_loop, huge_file])
def test_an_image_that_unpacks_without_end_is_given_up(bench: Bench, make: object) -> None:
    assert callable(make)
    user, image = bench.people["user"], make(bench)
    began = time.monotonic()
    done = user.singrun("exec", "--mount-with", "unpack", image, "true")
    assert (done.returncode, b"Cannot unpack" in done.stderr) == (255, True), done
    assert time.monotonic() - began < 60 * PATIENCE
    assert [*Path(f"/var/tmp/singrun-{user.uid}").iterdir()] == []


UNPACK = """
import os, sys
from singrun.images import unpacker
from singrun.images.image import open_image
unpacker.host_program = lambda _: sys.argv[1]
os.set_inheritable(os.open("/", os.O_RDONLY), True)
unpacker.unpack(open_image(sys.argv[2]), sys.argv[3], sys.argv[3], 1 << 30)
"""


def test_who_unpacks_has_no_descriptor_that_leads_out_of_its_tree(
    bench: Bench, tmp_path: Path
) -> None:
    """A program in place of debugfs(8), as an image might make of it, looks at what it has."""
    look, tree = tmp_path / "look", tmp_path / "tree"
    look.write_text("#!/bin/sh\nexec /bin/ls -l /proc/self/fd >$PWD/open\n")
    look.chmod(0o755)
    tree.mkdir()
    places = (look, mke2fs(tree, tmp_path / "image"), tree)
    words = ["unshare", "--mount", sys.executable, "-c", UNPACK, *map(str, places)]
    subprocess.run(words, check=True, cwd=images.ROOT)
    lines = (tree / "open").read_text().splitlines()[1:]
    names = dict(line.partition(" -> ")[::2] for line in lines)
    opened = {number.split()[-1]: name for number, name in names.items()}
    assert opened.pop("0") == str(tmp_path / "image")
    assert opened.pop("1") == str(tree / "open")
    assert opened.pop("2").startswith("pipe:")
    assert [name.split("/")[1] for name in opened.values()] == ["proc"]  # ls(1) itself reads it


def test_fuse_daemons_gain_nothing_by_set_id_programs(bench: Bench) -> None:
    user = bench.people["user"]
    daemons = f"ps -o pid,args | grep '[f]use2fs.*{bench.image.name}' | sed 's/^ *//; s/ .*//'"
    script = f"for pid in $({daemons}); do grep NoNewPrivs /proc/$pid/status; done"
    result = user.output("exec", bench.image, "sh", "-c", script).splitlines()
    assert result
    assert set(result) == {"NoNewPrivs:\t1"}
    images.wait_for_daemons(str(bench.image))


def test_root_is_warned_of_an_image_that_others_can_change(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    image = bench.directory / "theirs.img"
    shutil.copy(bench.image, image)
    os.chown(image, user.uid, user.gid)
    done = root.singrun("exec", image, "echo", "fine")
    assert (done.stdout, b"can be changed by others than root" in done.stderr) == (b"fine\n", True)
    site = bench.directory / "strict.conf"
    site.write_text("allow root user images = no\n")
    environment = root.environment() | {"SINGRUN_CONFIG": str(site)}
    done = root.singrun("exec", image, "true", env=environment)
    assert (done.returncode, b"allow root user images" in done.stderr) == (255, True)
    assert root.output("exec", bench.image, "echo", "fine", env=environment) == "fine\n"
    assert (
        user.output("exec", image, "echo", "fine", env=user.environment() | environment) == "fine\n"
    )
    image.chmod(0o777)
    os.chown(image, 0, 0)
    done = root.singrun("exec", image, "true", env=environment)
    assert done.returncode == 255
    images.wait_for_daemons(str(bench.directory))


def test_as_caller_starts_no_instance(bench: Bench, tmp_path: Path) -> None:
    """Its process would be written down, and its output, in files that root opens."""
    root, user = bench.people["root, loop"], bench.people["user"]
    environment = root.environment() | {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid)}
    (tmp_path / "file").write_text("of root")
    for words in (("start",), ("instance", "start"), ("instance", "run")):
        options = ("--as-caller", "--pid-file", tmp_path / "file")
        done = root.call(
            root.launcher, *words, *options, bench.image, "one", env=environment, cwd="/"
        )
        assert done.returncode == 255, done
        assert b"Cannot combine --as-caller with start" in done.stderr
    assert (tmp_path / "file").read_text() == "of root"


def test_as_caller_reads_and_makes_only_what_the_caller_may(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    closed = bench.directory / "closed"
    closed.mkdir()
    (closed / "file").write_text("SECRET=of-root\n")
    (closed / "tree").mkdir()
    closed.chmod(0o700)
    shutil.copytree(bench.tree, closed / "image", symlinks=True)
    shutil.copy(bench.image, closed / "image.img")
    owned = bench.directory / "owned"
    owned.mkdir(mode=0o755)
    environment = root.environment() | {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid)}
    refused: list[list[str | Path]] = [
        ["--env-file", closed / "file", bench.image, "env"],
        ["-B", f"{closed}/file:/data", bench.image, "cat", "/data"],
        ["-B", f"{closed}:/data", bench.image, "ls", "/data"],
        ["-H", f"{closed}/tree:/home/x", bench.image, "true"],
        ["-o", closed / "tree", bench.image, "true"],
        ["-o", f"{closed}/tree:ro", bench.image, "true"],
        ["-W", owned, "-S", "/x", bench.image, "true"],
        [closed / "image.img", "true"],
        [closed / "image", "true"],
        ["docker-archive:" + str(closed / "file"), "true"],
    ]
    for words in refused:
        done = root.call(root.launcher, "exec", "--as-caller", *words, env=environment, cwd="/")
        assert done.returncode, done
        assert b"SECRET" not in done.stdout + done.stderr, done
    assert [*owned.iterdir(), *(closed / "tree").iterdir()] == []
    # Those of the caller's own are obeyed as before.
    home = Path(pwd.getpwnam(user.name).pw_dir)
    user.call("sh", "-c", "echo OWN=mine > ~/vars; mkdir -p ~/work ~/over; chmod 700 ~")
    words = ["--env-file", home / "vars", "-W", home / "work", "-S", "/x", "-o", home / "over"]
    script = "echo $OWN; touch /x/made; stat -c %u /x/made"
    done = root.call(
        root.launcher,
        "exec",
        "--as-caller",
        *words,
        bench.image,
        "sh",
        "-c",
        script,
        env=environment,
        cwd="/",
    )
    assert (done.returncode, done.stdout.split()) == (0, [b"mine", b"%d" % user.uid]), done
    assert (home / "work/scratch").stat().st_uid == user.uid
    # A site's file that the caller names is none of root's.
    done = root.call(
        root.launcher,
        *("exec", "--as-caller", bench.image, "true"),
        env=environment | {"SINGRUN_CONFIG": str(closed / "file")},
        cwd="/",
    )
    assert (done.returncode, done.stderr) == (0, b"")
