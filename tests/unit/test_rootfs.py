"""Paths inside an image stay inside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.console.display import Console
from singbuild.errors import ImageError, SourceError
from singbuild.ext3.node import Owner
from singbuild.ext3.writer.seal import seal
from singbuild.formats.loading import image_digest
from singbuild.tree import sections
from singbuild.tree.root_directory import READ_LIMIT
from singbuild.tree.rootfs import Rootfs
from tests.bench import docker_images


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_text("untouched")
    with (tmp_path / "out").open("w") as out:
        return Rootfs(root, Console(out))


def test_links_are_resolved_inside(rootfs: Rootfs) -> None:
    rootfs.mkdir("/usr/bin")
    rootfs.symlink("/bin", "usr/bin")
    rootfs.symlink("/absolute", "/usr")
    assert rootfs.path("/bin/sh") == rootfs.root / "usr/bin/sh"
    assert rootfs.path("/absolute/bin/../lib") == rootfs.root / "usr/lib"
    assert rootfs.path("/bin", follow=False) == rootfs.root / "bin"


def test_nothing_leads_outside(rootfs: Rootfs) -> None:
    (rootfs.root / "etc").symlink_to("../outside")
    (rootfs.root / "deep").symlink_to("../../../../../../tmp")
    rootfs.write("/etc/victim", "inside")
    assert (rootfs.root.parent / "outside" / "victim").read_text() == "untouched"
    assert rootfs.read("/outside/victim") == b"inside"
    assert rootfs.path("../../x") == rootfs.root / "x"
    assert rootfs.path("/deep/x") == rootfs.root / "tmp/x"


def test_a_link_where_a_file_is_written_is_replaced(rootfs: Rootfs) -> None:
    rootfs.symlink("/file", str(rootfs.root.parent / "outside" / "victim"))
    rootfs.write("/file", b"new", 0o600)
    assert not (rootfs.root / "file").is_symlink()
    assert (rootfs.root.parent / "outside" / "victim").read_text() == "untouched"


def test_a_circle_of_links_is_an_error(rootfs: Rootfs) -> None:
    rootfs.symlink("/a", "b")
    rootfs.symlink("/b", "a")
    with pytest.raises(ImageError, match="too many levels"):
        rootfs.path("/a/x")


def test_a_directory_is_no_place_for_a_file(rootfs: Rootfs) -> None:
    rootfs.mkdir("/etc")
    with pytest.raises(ImageError, match="is a directory"):
        rootfs.write("/etc", "x")


def test_modes_are_exact_whatever_the_umask(rootfs: Rootfs) -> None:
    before = os.umask(0o077)
    try:
        rootfs.write("/a/b/file", "x", 0o4755)
        rootfs.mkdir("/tmp", 0o1777)
    finally:
        os.umask(before)
    assert (rootfs.root / "a/b/file").stat().st_mode & 0o7777 == 0o4755
    assert (rootfs.root / "a").stat().st_mode & 0o7777 == 0o755
    assert (rootfs.root / "tmp").stat().st_mode & 0o7777 == 0o1777


PARTS = st.sampled_from(["..", ".", "a", "b", "up", "top", "loop", "out"])


@given(st.lists(PARTS, max_size=12))
def test_any_path_stays_inside(parts: list[str]) -> None:
    root = Path("/nowhere-that-exists")
    with open(os.devnull, "w") as out:
        place = Rootfs(root, Console(out)).path("/".join(parts) or "/")
    assert place == root or root in place.parents


def test_what_is_no_file_is_not_read(rootfs: Rootfs) -> None:
    os.mkfifo(rootfs.root / "fifo")
    with (rootfs.root / "long").open("wb") as file:
        file.truncate(40 << 30)
    for name, why in (("/fifo", "no regular file"), ("/long", "more than")):
        with pytest.raises(ImageError, match=why):
            rootfs.read(name)
    with pytest.raises(FileNotFoundError):
        rootfs.read("/missing")


def test_a_link_that_appears_meanwhile_leads_nowhere(rootfs: Rootfs) -> None:
    outside = rootfs.root.parent / "outside"
    real = rootfs.path

    def swapped(inside: str | os.PathLike[str], *, follow: bool = True) -> Path:
        place = real(inside, follow=follow)
        (rootfs.root / "etc").rename(rootfs.root / "old")
        (rootfs.root / "etc").symlink_to(outside)
        return place

    for work in (
        lambda: rootfs.read("/etc/victim"),
        lambda: rootfs.write("/etc/victim", "changed"),
        lambda: rootfs.remove("/etc/victim"),
        lambda: rootfs.remove_tree("/etc/victim"),
        lambda: rootfs.chmod("/etc/victim", 0),
        lambda: rootfs.mkdir("/etc/victim/below"),
        lambda: rootfs.rename("/etc/victim", "/etc/other"),
    ):
        rootfs.mkdir("/etc")
        rootfs.write("/etc/victim", "inside")
        rootfs.path = swapped  # type: ignore[method-assign]
        with pytest.raises(OSError, match=r"symbolic links|File exists"):
            work()
        rootfs.path = real  # type: ignore[method-assign]
        (rootfs.root / "etc").unlink()
        rootfs.remove_tree("/old")
    assert (outside / "victim").read_text() == "untouched"
    assert [path.name for path in outside.iterdir()] == ["victim"]


def test_trees_are_removed_and_patterns_matched_inside(rootfs: Rootfs) -> None:
    outside = rootfs.root.parent / "outside"
    for name in ("/a/b/c.log", "/a/d.log", "/a/d.txt"):
        rootfs.write(name, "")
    (rootfs.root / "a" / "out").symlink_to(outside)
    (rootfs.root / "led").symlink_to(outside)
    assert rootfs.glob("a/*.log") == ["/a/d.log"]
    assert rootfs.glob("/a/*/*.log") == ["/a/b/c.log"]
    assert rootfs.glob("led/*") == []
    assert rootfs.names("/a") == ["b", "d.log", "d.txt", "out"]
    assert sorted(rootfs.files("/a", ".log")) == ["/a/b/c.log", "/a/d.log"]
    walked = {path: sorted(each.name for each in entries) for path, entries in rootfs.walk()}
    expected = {"": ["a", "led"], "a": ["b", "d.log", "d.txt", "out"], "a/b": ["c.log"]}
    assert walked == expected
    assert list(rootfs.walk("/none")) == []
    rootfs.remove_tree("/a")
    rootfs.remove_tree("/led")
    assert rootfs.names("/") == []
    assert (outside / "victim").read_text() == "untouched"


def test_a_directory_of_the_build_s_own_is_new(rootfs: Rootfs) -> None:
    with rootfs.new_directory("work") as work:
        (work / "file").write_text("")
    assert not rootfs.exists("/work")
    rootfs.symlink("/work", str(rootfs.root.parent / "outside"))
    with pytest.raises(ImageError, match="the image has a /work"), rootfs.new_directory("work"):
        pass


def test_a_section_that_writes_a_long_hosts_file_keeps_it(rootfs: Rootfs) -> None:
    with sections.host_names(rootfs), (rootfs.root / "etc/hosts").open("wb") as file:
        file.truncate(READ_LIMIT + 1)
    assert rootfs.status("/etc/hosts").st_size == READ_LIMIT + 1  # type: ignore[union-attr]
    assert rootfs.names("/etc") == ["hosts"]


def test_a_line_for_a_long_hosts_file_of_the_image_is_added_to_it(rootfs: Rootfs) -> None:
    rootfs.mkdir("/etc")
    with (rootfs.root / "etc/hosts").open("wb") as file:
        file.truncate(READ_LIMIT)
    with sections.host_names(rootfs), (rootfs.root / "etc/hosts").open("ab") as file:
        file.write(b"10.0.0.1 more\n")
    with (rootfs.root / "etc/hosts").open("rb") as file:
        file.seek(READ_LIMIT)
        assert file.read() == b"10.0.0.1 more\n"
    assert rootfs.names("/etc") == ["hosts"]


def test_a_directory_that_is_another_only_while_it_is_unpacked_is_refused(
    rootfs: Rootfs, tmp_path: Path
) -> None:
    sandbox = tmp_path / "sandbox"
    (sandbox / "etc").mkdir(parents=True)
    (sandbox / "more").mkdir()
    for number in range(2000):
        (sandbox / f"more/{number}").touch()
    hosts = sandbox / "etc/hosts"
    hosts.write_text("wanted")
    os.utime(hosts, (1, 1))
    digest = image_digest(sandbox)
    hosts.write_text("evil!!")

    def restore() -> None:
        unpacked = rootfs.root / "etc/hosts"
        while not unpacked.exists() or unpacked.read_text() != "evil!!":
            time.sleep(0.001)
        hosts.write_text("wanted")
        os.utime(hosts, (1, 1))

    thread = threading.Thread(target=restore, daemon=True)
    thread.start()
    with pytest.raises(SourceError, match="was changed while it was read"):
        rootfs.unpack_image(sandbox, sha256=digest)
    thread.join()
    assert image_digest(sandbox) == digest


def test_a_file_of_others_that_is_another_only_while_it_is_unpacked_is_refused(
    rootfs: Rootfs, tmp_path: Path
) -> None:
    """Both digests of the name are the wanted image's; what is unpacked must be, too."""
    for name in ("wanted", "evil"):
        tree = tmp_path / f"{name}.tree"
        tree.mkdir()
        (tree / name).touch()
        seal(tree, tmp_path / name, epoch=1)
    image = tmp_path / "image"
    shutil.copy(tmp_path / "evil", image)
    image.chmod(0o666)

    def restore() -> None:
        while not (rootfs.root / "evil").exists() and not is_over.wait(0.001):
            pass
        shutil.copy(tmp_path / "wanted", image)

    is_over = threading.Event()
    thread = threading.Thread(target=restore)
    thread.start()
    try:
        with pytest.raises(SourceError, match="image: was changed while it was read"):
            rootfs.unpack_image(image, sha256=image_digest(tmp_path / "wanted"))
    finally:
        is_over.set()
        thread.join()
    assert not (rootfs.root / "evil").exists()


def test_an_image_with_another_digest_is_refused(rootfs: Rootfs, tmp_path: Path) -> None:
    sandbox = tmp_path / "sandbox"
    (sandbox / "etc").mkdir(parents=True)
    digest = image_digest(sandbox)
    rootfs.unpack_image(sandbox, sha256=digest)
    assert (rootfs.root / "etc").is_dir()
    (sandbox / "etc/hosts").write_text("another")
    with pytest.raises(SourceError, match="sandbox: was changed while it was read"):
        rootfs.unpack_image(sandbox, sha256=digest)


SOMEBODY = Owner(7, 7)


def test_a_recorded_owner_goes_with_its_entry(rootfs: Rootfs) -> None:
    """The seal finds it by its path: what comes there later is another's."""
    for name in ("/file", "/link", "/removed", "/tree/below/file"):
        rootfs.write(name, "")
    rootfs.mkdir("/empty")
    names = ("file", "link", "removed", "empty", "tree", "tree/below", "tree/below/file")
    rootfs.owners.update((name.encode(), SOMEBODY) for name in names)
    rootfs.write("/file", "")
    rootfs.symlink("/link", "file")
    rootfs.remove("/removed")
    rootfs.rmdir("/empty")
    rootfs.remove_tree("/tree")
    assert rootfs.owners == {}


def test_a_recorded_owner_follows_its_entry(rootfs: Rootfs) -> None:
    rootfs.write("/old/file", "")
    rootfs.mkdir("/new")
    names = (b"old", b"old/file", b"older")
    rootfs.owners.update(dict.fromkeys((*names, b"new", b"new/file", b"new/gone"), SOMEBODY))
    rootfs.owners[b"old/file"] = Owner(8, 8)
    rootfs.rename("/old", "/new")
    assert rootfs.owners == {b"new": SOMEBODY, b"new/file": Owner(8, 8), b"older": SOMEBODY}


def test_an_owner_that_the_host_gives_beats_a_recorded_one(rootfs: Rootfs) -> None:
    for name in ("/file", "/device"):
        rootfs.write(name, "")
    device = Owner(7, 7, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    rootfs.owners.update({b"file": SOMEBODY, b"device": device})
    for name in ("/file", "/device"):
        rootfs.chown(name, os.getuid(), os.getgid())
    assert rootfs.owners == {b"device": replace(device, uid=os.getuid(), gid=os.getgid())}


@pytest.mark.parametrize(
    "member",
    [
        docker_images.file("../escaped"),
        docker_images.file("x/../../escaped"),
        docker_images.hardlink("hard", "../victim"),
        docker_images.hardlink("hard", "/victim"),
    ],
)
def test_no_name_leads_an_archive_out_of_its_directory(
    rootfs: Rootfs, member: docker_images.Entry
) -> None:
    rootfs.write("/victim", "untouched")
    rootfs.mkdir("/srv/app")
    with pytest.raises(SourceError, match="cannot be unpacked"):
        rootfs.unpack_below("/srv/app", [docker_images.archive(member)])
    assert sorted(rootfs.names("/")) == ["srv", "victim"]
    assert (rootfs.names("/srv"), rootfs.names("/srv/app")) == (["app"], [])


@pytest.mark.parametrize("target", ["/etc", "../../etc", "/srv/app/../../etc"])
def test_no_link_leads_an_archive_out_of_its_directory(rootfs: Rootfs, target: str) -> None:
    """It is the root for links, as where Docker unpacks an archive of ADD."""
    rootfs.write("/etc/passwd", "untouched")
    rootfs.mkdir("/srv/app")
    rootfs.symlink("/app", "srv/app")
    members = docker_images.symlink("link", target), docker_images.file("link/passwd", b"new")
    with contextlib.suppress(SourceError):
        rootfs.unpack_below("/app", [docker_images.archive(*members)])
    assert rootfs.read("/etc/passwd") == b"untouched"
    assert os.readlink(rootfs.root / "srv/app/link") == target


def test_what_is_recorded_of_an_archive_in_a_directory_has_its_whole_path(rootfs: Rootfs) -> None:
    rootfs.mkdir("/srv/app")
    rootfs.baseline.epoch = 1
    names = (b"srv", b"srv/app/old", b"srv/app/other", b"srv/app/directory/old")
    rootfs.write("/srv/app/directory/old", "")
    rootfs.owners.update(dict.fromkeys(names, SOMEBODY))
    ids = {"uid": os.getuid(), "gid": os.getgid(), "mtime": 7}
    members = docker_images.file("old", b"", **ids), docker_images.file("directory", b"", **ids)
    rootfs.unpack_below("/srv/app", [docker_images.archive(*members)])
    assert rootfs.owners == dict.fromkeys((b"srv", b"srv/app/other"), SOMEBODY)
    assert set(rootfs.baseline.entries) == {b"srv/app/old", b"srv/app/directory"}
    with pytest.raises(SourceError, match="/srv/app/old"):
        rootfs.unpack_below("/srv/app/old", [])
