"""No input costs more than linear time or ends as a bug: archives, databases, locks."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import sqlite3
import struct
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import singbuild_debootstrap.packages as debootstrap_packages
import singbuild_yum.packages as yum_packages
from singbuild_arch import repository as arch_repository
from singbuild_arch.repository import Repository
from singbuild_debootstrap import archive as debootstrap_archive
from singbuild_docker import archive, config
from singbuild_docker.archive import DockerArchive
from singbuild_docker.image import Store

from singbuild import SingbuildError, SourceError, compression
from singbuild.cache import remote
from singbuild.compression import inflated
from singbuild.dockerfile import loading as dockerfiles
from singbuild.errors import ImageError, LockError
from singbuild.images import incoming, inspection
from singbuild.packages import package, rpm
from singbuild.plan import lock
from singbuild.recipe import grammar
from singbuild.recipe.text import Text
from singbuild.tar.extract import Unpacker
from singbuild.tar.limits import Limits
from singbuild.testing.engine import Recorder
from singbuild.tree import normalise
from singbuild.tree.rootfs import Rootfs
from tests.bench.host import PATIENCE, processor_time
from tests.bench.tar_bytes import END, base_256, directory, header, link, member, pax, sparse


def unpack(root: Path, *layers: bytes | Iterable[bytes], limits: Limits | None = None) -> None:
    root.mkdir(exist_ok=True)
    with Unpacker(root, Recorder(), whiteouts=True, limits=limits) as unpacker:
        for layer in layers:
            unpacker.apply([layer + END] if isinstance(layer, bytes) else layer)


@pytest.fixture
def _quick() -> Iterator[None]:
    """What is linear ends in seconds; what is quadratic would need an hour."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 20 * PATIENCE


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("text", [b"1" * (8 << 20), b"9\n" + b"1" * (8 << 20), b"12\n" * 10])
def test_a_map_of_holes_is_read_in_linear_time(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(SourceError):
        unpack(tmp_path / "root", sparse(b"f", text, 10))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_headers_before_one_member_are_bounded_together(tmp_path: Path, kind: bytes) -> None:
    def endless() -> Iterator[bytes]:
        for number in range(1 << 30):
            yield pax([(b"k%d" % number, b"v" * 8000)], kind)

    with pytest.raises(SourceError, match="damaged"):
        unpack(tmp_path / "root", endless())


@pytest.mark.usefixtures("_quick")
def test_a_header_for_all_members_is_not_carried_to_each(tmp_path: Path) -> None:
    many = pax([(b"SCHILY.xattr.user.%d" % number, b"") for number in range(30_000)], b"g")
    unpack(tmp_path / "root", many + member(b"f") * 5000)


@pytest.mark.usefixtures("_quick")
def test_a_directory_is_emptied_once_for_each_layer(tmp_path: Path) -> None:
    files = b"".join(member(b"d/%d" % number) for number in range(2000))
    opaque = member(b"d/.wh..wh..opq") * 20_000
    unpack(tmp_path / "root", member(b"d/lower"), files + opaque)
    assert len([*(tmp_path / "root/d").iterdir()]) == 2000


@pytest.mark.parametrize("size", [base_256(-(1 << 60)), b"-7"])
def test_a_negative_size_does_not_lift_the_limit(tmp_path: Path, size: bytes) -> None:
    hidden = header(b".wh.x", b"S", real_size=size)
    with pytest.raises(SourceError):
        unpack(
            tmp_path / "root", hidden + member(b"big", bytes(2 << 20)), limits=Limits(100, 1 << 20)
        )


@pytest.mark.parametrize("target", [b"q/../p", b"/z/../p", b"p", b"./p/x/.."])
def test_links_that_lead_to_themselves_are_refused(tmp_path: Path, target: bytes) -> None:
    with pytest.raises(SourceError, match="cannot be unpacked"):
        unpack(tmp_path / "root", link(b"p", target) + member(b"p/x", b"hi"))


@pytest.mark.parametrize(
    "archive",
    [
        directory(b"d", mtime=base_256(1 << 80)),
        directory(b"./", mtime=base_256(1 << 80)),
        pax({b"mtime": b"9" * 19}) + directory(b"d"),
        directory(b"d", uid=base_256(1 << 40, 8)),
        pax({b"uid": b"9" * 19}) + directory(b"d"),
        link(b"l", b"x", uid=base_256(1 << 40, 8)),
        pax({b"SCHILY.xattr.user.a\0b": b"v"}) + directory(b"d"),
        pax({b"SCHILY.xattr.user." + b"a" * 300: b"v"}) + directory(b"d"),
        pax({b"SCHILY.xattr.user.a": b"v" * 70_000}) + directory(b"d"),
        pax([(b"SCHILY.xattr.user.a%d" % n, b"v" * 900) for n in range(200)]) + directory(b"d"),
        header(b"n", b"3", major=base_256(1 << 50, 8)),
        header(b"n", b"3", major=base_256(-1, 8)),
        header(b"n", b"3", minor=base_256(1 << 62, 8)),
        header(b"n", b"3", minor=base_256(-1, 8)),
    ],
)
def test_what_no_file_system_can_hold_is_refused_by_name(tmp_path: Path, archive: bytes) -> None:
    with contextlib.suppress(SingbuildError):  # this host's file system may hold some
        unpack(tmp_path / "root", archive)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("content", [b"", b"x"])
def test_streams_of_nothing_are_refused(content: bytes) -> None:
    one = gzip.compress(content)
    with pytest.raises(SourceError, match="takes long to unpack"):
        for _ in inflated(iter([one * 2000] * 1000), "gzip"):
            pass
    assert b"".join(inflated(iter([gzip.compress(b"x" * 300) * 5000]), "gzip")) == b"x" * 1_500_000


def docker_archive(path: Path, manifest: object, *members: tarfile.TarInfo) -> DockerArchive:
    with tarfile.open(path, "w") as tar:
        text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        about = tarfile.TarInfo("manifest.json")
        about.size = len(text)
        tar.addfile(about, io.BytesIO(text))
        for each in members:
            tar.addfile(each)
    return DockerArchive(path, "", Store(path.parent, Recorder()))


def tar_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "manifest",
    [
        [1, 2], {}, 5, [{}], [{"RepoTags": 5}, {}], [{"RepoTags": [1, {}]}, {"RepoTags": "x"}],
        [{"Config": 5}], [{"Config": "c.json"}], b"[" * 100_000, b"\xff", [{"Config": "../c"}],
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(SourceError):
        docker_archive(tmp_path / "a.tar", manifest).image_for("x86_64")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_circle_of_links_is_refused(tmp_path: Path, kind: bytes) -> None:
    around = tar_link("c.json", "d.json", kind), tar_link("d.json", "c.json", kind)
    with pytest.raises(SourceError, match="circle"):
        docker_archive(tmp_path / "a.tar", [{"Config": "c.json"}], *around).image_for("x86_64")


def test_headers_before_headers_are_no_bug(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pax({b"comment": b"x"}) * 5000 + member(b"f") + END)
    with pytest.raises(SourceError, match="no tar archive"):
        DockerArchive(tmp_path / "a.tar", "", Store(tmp_path, Recorder())).image_for("x86_64")


def test_a_date_that_no_image_can_have_is_none() -> None:
    assert config.created({"created": "9999-12-31T23:59:59+00:00"}) is None
    for size in ("9", None, -5, 2**40, True, [1]):
        assert lock.choose_epoch({"epoch": size}, None) in (lock.DEFAULT_EPOCH, 1)


class Files:
    """A tree of one file, as packages.rpm reads trees."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        return iter([self.content]) if path.endswith(b".sqlite") else None


def database(path: Path, *statements: str) -> bytes:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path.read_bytes()


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT"


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "statements",
    [
        [f"CREATE VIEW Packages AS {ENDLESS} x AS hnum, zeroblob(99999) AS blob FROM n"],
        [
            "CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, b, "
            "blob AS (zeroblob(1000000000)) VIRTUAL)",
            "INSERT INTO Packages(hnum) VALUES (1)",
        ],
        ["CREATE TABLE Other(hnum, blob)"],
        ["CREATE VIRTUAL TABLE Packages USING fts5(hnum, blob)"],
    ],
)
def test_of_an_rpm_database_only_rows_are_read(tmp_path: Path, statements: list[str]) -> None:
    tree = Files(database(tmp_path / "made", *statements))
    with pytest.raises(ImageError, match="cannot be read"):
        [*rpm._headers(tree, b"rpmdb.sqlite")]  # type: ignore[arg-type]


def test_a_schema_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = database(tmp_path / "made", "CREATE TABLE Packages(hnum, blob, column_of_ours)")
    tree = Files(content.replace(b"column_of_ours", b"\xff\xfe\xfd\xfccolumn_our"))
    with contextlib.suppress(ImageError):
        assert [*rpm._headers(tree, b"rpmdb.sqlite")] == []  # type: ignore[arg-type]


def definition(count: int, stage: str) -> str:
    stages = "".join(stage.format(number) for number in range(count))
    return f"{stages}Bootstrap: busybox\n"


@pytest.mark.parametrize(
    "text",
    [
        definition(5_000, "Bootstrap: busybox\nStage: s{0}\n"),
        definition(2_000, "Bootstrap: busybox\nStage: s{0}\n%post\ncat <<END\n"),
        "Bootstrap: busybox\n" + "".join(f"%apprun a{n}\n" for n in range(14_000)),
        "Bootstrap: busybox\n" + f"Include: {'x' * 400}\n" * 14_000,
    ],
    ids=["stages", "here-documents", "apps", "included"],
)
def test_a_definition_is_read_in_linear_time(text: str) -> None:
    with processor_time(2):
        assert grammar.parse(Text("a.def", text)).bootstrap == "busybox"


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(5_000)),
        "".join(f"ARG A{n}=1\n" for n in range(3_400)) + "FROM scratch\n" * 3_400,
        "FROM scratch\nRUN " + "--a " * 140_000 + "true\n",
    ],
    ids=["stages", "arguments", "flags"],
)
def test_a_dockerfile_is_read_in_linear_time(text: str) -> None:
    with processor_time(2):
        assert dockerfiles.parse(Text("Dockerfile", text), {}).is_dockerfile


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "text",
    [
        f"version: 1\n{LAUGHS}backend: {{name: *a39}}\n",
        "version: 1\nx: " + "[" * 100_000,
        "version: 1\nx: " + "{a: " * 100_000,
        "version: 1\nx: " + "[" * 100_000 + "]" * 100_000,
        "version: 1\nx: " + "{a: " * 100_000 + "}" * 100_000,
        "version: 1\nx: " + "- " * 100_000 + "1\n",
        "version: 1\nx: " + "9" * 10_000,
        "version: 1\nx: 99999-99-99\n",
        "version: 1\n? [x, y]\n: {z: 1}\n",
    ],
)
def test_a_lock_that_is_made_to_grow_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.lock.yaml").write_text(text)
    with contextlib.suppress(LockError):
        lock.read(tmp_path / "a.lock.yaml")
    assert inspection._backend(inspection._lock(text), None) is None


@pytest.mark.parametrize("are_pins", [debootstrap_packages.are_pins, yum_packages.are_pins])
@pytest.mark.parametrize("answer", [5, [], None, {"a": 5}, {"a": {}}, {"a": {"size": "1"}}])
def test_a_damaged_list_of_packages_in_the_cache_is_not_taken(
    are_pins: Callable[[object], bool], answer: object
) -> None:
    assert not are_pins(answer)


def test_dates_of_passwords_that_are_no_dates_stay(tmp_path: Path) -> None:
    rootfs, text = Rootfs(tmp_path, Recorder()), b"a:*:" + b"9" * 5000 + b":\nb:*:99999:\n"
    rootfs.write("/etc/shadow", text)
    normalise._pin_password_dates(rootfs, 86400)
    assert rootfs.read("/etc/shadow") == text.replace(b"b:*:99999", b"b:*:1")
    with rootfs.open("/etc/shadow", "r+b") as file:
        file.truncate(40 << 30)
    normalise._pin_password_dates(rootfs, 86400)
    assert (tmp_path / "etc/shadow").stat().st_size == 40 << 30


def test_an_archive_to_import_that_is_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "RATIO_FROM", 1 << 20)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(SourceError, match=r"bomb.tar.gz: it grows to more than 200 times") as size:
        list(incoming.archive(str(tmp_path / "bomb.tar.gz")))
    assert "SINGBUILD_UNPACK_RATIO" in size.value.remedy


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_an_archive_to_import_that_is_cut_off(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    packed = pack(bytes(range(256)) * 1000)
    (tmp_path / "half").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SourceError, match=r"half: its \w+ data are cut off") as size:
        list(incoming.archive(str(tmp_path / "half")))
    assert "tar -tvf" in size.value.remedy


@pytest.mark.parametrize("text", [b"[" * 100_000 + b"\n", b"[" * (17 << 20), b"5\n", b""])
def test_a_stage_of_a_registry_that_is_none(text: bytes) -> None:
    with pytest.raises(SourceError, match="is no stage of a build"):
        remote._note(iter([text]), Path("file"))


@pytest.mark.usefixtures("_quick")
def test_a_field_of_many_lines_is_read_in_linear_time() -> None:
    (stanza,) = package.stanzas(b"Status: installed\n" + b" x\n" * 2_000_000)
    assert stanza["Status"] == "installed" + "\nx" * 2_000_000
    release = b"SHA256:\n" + b" x\n" * 2_000_000
    assert debootstrap_archive.read_release(release, "")["SHA256"].count("\n") == 2_000_000


@pytest.mark.usefixtures("_quick")
def test_a_string_that_many_entries_of_an_rpm_header_name_is_read_once() -> None:
    store, count = b"x" * (1 << 20) + b"\0last\0", 500_000
    index = struct.pack(">IIII", 1000, 6, 0, 1) * (count - 1)
    index += struct.pack(">IIII", 1000, 6, (1 << 20) + 1, 1)
    assert rpm._fields(struct.pack(">II", count, len(store)) + index + store) == {"name": "last"}


def test_members_of_one_name_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 1000)
    (tmp_path / "a.tar").write_bytes(member(b"f") * 1001 + END)
    with pytest.raises(SourceError) as caught:
        DockerArchive(tmp_path / "a.tar", "", Store(tmp_path, Recorder())).image_for("x86_64")
    assert "over 1,000 members" in caught.value.why


def test_headers_of_an_archive_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_HEADERS", 1 << 20)
    comment = pax({b"comment": b"x" * (1 << 18)})
    (tmp_path / "a.tar").write_bytes((comment + member(b"f")) * 5 + END)
    with pytest.raises(SourceError) as caught:
        DockerArchive(tmp_path / "a.tar", "", Store(tmp_path, Recorder())).image_for("x86_64")
    assert "headers have over" in caught.value.why


def test_headers_before_headers_of_an_index_are_no_bug() -> None:
    content = pax({b"comment": b"x"}) * 5000 + member(b"f") + END
    with pytest.raises(SourceError, match=r"core.db: cannot be understood"):
        [*arch_repository.packages(Repository("core", "https://m.invalid", "0" * 64, content))]
