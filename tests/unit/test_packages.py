"""Package databases and the bill of materials, from directories and from images."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.console.display import Console
from singbuild.errors import ImageError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.seal import seal
from singbuild.packages import cyclonedx, spdx
from singbuild.packages.databases import software
from singbuild.packages.licences import declared
from singbuild.packages.package import Package, Tree
from singbuild.packages.tree import DirectoryTree, ImageTree
from singbuild.tree.rootfs import Rootfs
from tests.bench import bills

EPOCH = 1_700_000_000

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Source: glibc (2.36-9)
Version: 2.36-9+deb12u9
Homepage: https://www.gnu.org/software/libc/libc.html
Description: C library
 Package: not-a-field

Package: removed
Status: deinstall ok config-files
Version: 1

Package: 7zip
Status: hold ok installed
Architecture: amd64
Version: 1:22.01~dfsg-8
Maintainer: A (b) C <a@b>
"""
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+ or Artistic, and Expat

Files: x
License: public-domain
 Nobody owns this.
"""
APK = """C:Q1/2yVVfyB4zdnvFJAAJIZGgYhEBk=
P:musl
V:1.2.4-r2
A:x86_64
T:the musl c library
U:https://musl.libc.org/
L:MIT
o:musl
m:Timo <timo@example.org>
F:lib
R:ld-musl-x86_64.so.1

P:busybox
V:1.36.1-r5
A:x86_64
L:GPL-2.0-only

"""
METADATA = """Metadata-Version: 2.1
Name: My_Package.x
Version: 1.0+local
License: MIT License
Author: Jane
Author-email: jane@example.org

License: not a header
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    write(root / "usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\n')
    (root / "etc").mkdir()
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    write(root / "var/lib/dpkg/status", STATUS)
    write(root / "var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\n")
    write(root / "var/lib/dpkg/status.d/base.md5sums", "0  x\n")
    write(root / "usr/share/doc/libc6/copyright", COPYRIGHT)
    write(root / "lib/apk/db/installed", APK)
    write(root / "opt/venv/lib/python3.11/site-packages/m-1.0.dist-info/METADATA", METADATA)
    write(root / "usr/lib/old.egg-info", "Name: old\nVersion: 2\nLicense: UNKNOWN\n")
    write(root / "usr/lib/older.egg-info/PKG-INFO", "Name: older\nVersion: 3\n")
    return root


def directory(root: Path) -> Tree:
    return DirectoryTree(Rootfs(root, Console(io.StringIO())))


def by_name(tree: Tree) -> dict[str, Package]:
    return {package.name: package for package in software(tree).packages}


def test_every_database_is_read(root: Path) -> None:
    rows = by_name(directory(root))
    assert [p.purl for p in rows.values()] == [
        "pkg:apk/debian/busybox@1.36.1-r5?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
        "pkg:deb/debian/7zip@1:22.01~dfsg-8?arch=amd64&distro=debian-12",
        "pkg:deb/debian/base-files@12?distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12",
        "pkg:pypi/my-package-x@1.0%2Blocal",
        "pkg:pypi/old@2",
        "pkg:pypi/older@3",
    ]
    assert rows["libc6"].source == "glibc"
    assert rows["libc6"].supplier == "GNU Libc Maintainers <debian-glibc@lists.debian.org>"
    assert rows["musl"].licence == "MIT"
    assert rows["musl"].digests[0][1].startswith("ff6c9555")
    assert rows["My_Package.x"].supplier == "Jane"
    assert rows["old"].licence == ""


def test_an_image_and_its_tree_have_one_bill(root: Path, tmp_path: Path) -> None:
    image = seal(root, tmp_path / "image", epoch=EPOCH).path
    with Image(image) as opened:
        text = spdx.bill(ImageTree(opened), EPOCH)
        assert software(ImageTree(opened)) == software(directory(root))
    assert text == spdx.bill(directory(root), EPOCH)


def check_valid(text: str, place: Path) -> dict[str, object]:
    """The document, once SPDX's own tools find nothing wrong with it."""
    file = place / "bill.spdx.json"
    file.write_text(text)
    bills.valid_spdx(file)
    document: dict[str, object] = json.loads(text)
    return document


@pytest.mark.parametrize("created", [-1, 2**40, 2**63])
def test_the_bill_of_an_image_of_no_year_is_valid(root: Path, tmp_path: Path, created: int) -> None:
    """As a damaged superblock has it."""
    document = check_valid(spdx.bill(directory(root), created), tmp_path)
    about = document["creationInfo"]
    assert isinstance(about, dict)
    assert about["created"][:4] in ("1970", "9999")


def test_the_bill_is_valid_spdx(root: Path, tmp_path: Path) -> None:
    document = check_valid(spdx.bill(directory(root), EPOCH), tmp_path)
    items = document["packages"]
    assert isinstance(items, list)
    packages = {item["name"]: item for item in items}
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"  # type: ignore[index]
    expected = "((GPL-2.0-or-later OR Artistic-1.0-Perl) AND (MIT)) AND LicenseRef-public-domain"
    assert packages["libc6"]["licenseDeclared"] == expected
    assert packages["7zip"]["supplier"] == "Organization: A b C (a@b)"
    assert packages["libc6"]["supplier"].endswith("(debian-glibc@lists.debian.org)")
    assert packages["My_Package.x"]["licenseDeclared"] == "MIT"
    assert packages["musl"]["comment"].startswith("SHA1 of the control part: ")


def test_the_bill_is_valid_cyclonedx(root: Path) -> None:
    document = bills.valid_cyclonedx(cyclonedx.bill(directory(root), EPOCH))
    items = {each["name"]: each for each in document["components"]}
    assert [each["purl"] for each in document["components"]] == [
        package.purl for package in software(directory(root)).packages
    ]
    assert items["musl"]["licenses"] == [{"expression": "MIT"}]
    assert "public-domain" in items["libc6"]["licenses"][0]["license"]["name"]
    assert items["libc6"]["supplier"] == {"name": "GNU Libc Maintainers"}
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert cyclonedx.bill(directory(root), EPOCH) == cyclonedx.bill(directory(root), EPOCH)


@pytest.mark.parametrize("homepage", ["https://a b", "https://[", "https://example/\u00fc", "x:"])
def test_no_text_of_a_package_makes_it_invalid(root: Path, homepage: str) -> None:
    more = f"Homepage: {homepage}\nVersion: \nMaintainer: <>\n"
    stanza = f"\n\nPackage: odd\nStatus: install ok installed\n{more}"
    write(root / "var/lib/dpkg/status", STATUS + stanza)
    document = bills.valid_cyclonedx(cyclonedx.bill(directory(root), EPOCH))
    assert "odd" in {each["name"] for each in document["components"]}


def test_an_empty_tree_has_a_valid_bill_of_each_form(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert not bills.valid_cyclonedx(cyclonedx.bill(directory(tmp_path / "root"), 0))["components"]


def test_another_package_gives_another_namespace_and_no_other_thing_does(root: Path) -> None:
    first = json.loads(spdx.bill(directory(root), EPOCH))
    again = json.loads(spdx.bill(directory(root), EPOCH))
    write(root / "var/lib/dpkg/status", STATUS.replace("2.36-9+deb12u9", "2.36-9+deb12u10"))
    other = json.loads(spdx.bill(directory(root), EPOCH))
    assert first == again
    assert first["documentNamespace"] != other["documentNamespace"]


def test_an_empty_tree_has_a_valid_bill(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    check_valid(spdx.bill(directory(tmp_path / "root"), 0), tmp_path)


def test_links_out_of_the_tree_do_not_read_the_host(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(tmp_path / "outside/status", STATUS)
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/dpkg").symlink_to(tmp_path / "outside")
    (root / "lib/apk/db").mkdir(parents=True)
    os.mkfifo(root / "lib/apk/db/installed")
    assert software(directory(root)).packages == ()


@pytest.mark.parametrize(("name", "form"), [("Packages", "Berkeley DB"), ("Packages.db", "ndb")])
def test_an_rpm_database_of_an_older_form_is_told(
    root: Path, tmp_path: Path, name: str, form: str
) -> None:
    write(root / "var/lib/rpm" / name, "x")
    (note,) = software(directory(root)).notes
    assert f"/var/lib/rpm/{name}" in note
    assert form in note
    assert check_valid(spdx.bill(directory(root), 0), tmp_path)["comment"] == note


SPEC = """Name: hello-{name}
Epoch: {epoch}
Version: 1.5
Release: 2
Summary: A test
License: GPLv2+ and MIT
Vendor: Some Vendor
URL: https://example.org/
BuildArch: noarch
%description
A test.
%files
"""


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs rpmbuild (package rpm)")
def test_a_real_rpm_database(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    for name, epoch in (("one", 0), ("two", 3)):
        (home / "x.spec").write_text(SPEC.format(name=name, epoch=epoch))
        options = ["--define", f"_topdir {home}", "--define", f"_rpmdir {home}"]
        argv = ["rpmbuild", "-bb", "--quiet", *options, str(home / "x.spec")]
        subprocess.run(argv, check=True, env=environment, capture_output=True)
    database = root / "usr/lib/sysimage/rpm"
    database.mkdir(parents=True)
    place = ["--define", f"_dbpath {database}"]
    subprocess.run(["rpm", *place, "--initdb"], check=True, env=environment)
    files = [str(path) for path in home.rglob("*.rpm")]
    argv = ["rpm", *place, "-i", "--justdb", "--nodeps", "--ignorearch", *files]
    subprocess.run(argv, check=True, env=environment)
    image = seal(root, tmp_path / "image", epoch=EPOCH).path
    with Image(image) as opened:
        rows = by_name(ImageTree(opened))
        check_valid(spdx.bill(ImageTree(opened), EPOCH), tmp_path)
    assert rows["hello-one"].version == "1.5-2"
    assert rows["hello-two"].version == "3:1.5-2"
    assert rows["hello-two"].purl.endswith("/hello-two@1.5-2?arch=noarch&distro=debian-12&epoch=3")
    assert rows["hello-one"].supplier == "Some Vendor"
    assert rows["hello-one"].source == "hello-one-1.5-2.src.rpm"
    assert declared(rows["hello-one"].licence).expression == "GPL-2.0-or-later AND MIT"
    assert {what for what, _ in rows["hello-one"].digests} >= {"SHA256 of the header"}


def sqlite_database(path: Path, *statements: str) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


TABLE = "CREATE TABLE Packages (hnum INTEGER, blob BLOB)"
# One tag, the name, whose text begins at byte 9 of a store of one byte.
OUTSIDE = struct.pack(">6I", 1, 1, 1000, 6, 9, 1) + b"x"
ENDLESS = """CREATE VIEW Packages AS
    WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
    SELECT x AS hnum, NULL AS blob FROM n"""


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE Other (x)",),
        (TABLE, "INSERT INTO Packages VALUES (1, x'00')"),
        (TABLE, f"INSERT INTO Packages VALUES (1, x'{OUTSIDE.hex()}')"),
        (ENDLESS,),
    ],
)
def test_a_hostile_rpm_database_is_an_error(root: Path, statements: tuple[str, ...]) -> None:
    sqlite_database(root / "var/lib/rpm/rpmdb.sqlite", *statements)
    with pytest.raises(ImageError, match="/var/lib/rpm/rpmdb"):
        software(directory(root))


def test_a_file_that_is_no_database_is_an_error(root: Path) -> None:
    write(root / "var/lib/rpm/rpmdb.sqlite", "x" * 5000)
    with pytest.raises(ImageError, match="/var/lib/rpm/rpmdb"):
        software(directory(root))


@given(st.binary(max_size=400))
def test_no_header_makes_the_parser_fail_otherwise(blob: bytes) -> None:
    from singbuild.packages.rpm import _fields

    try:
        _fields(struct.pack(">I", len(blob) % 5) + blob)
    except (ValueError, struct.error):
        return


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("GPL-3+", "GPL-3.0-or-later"),
        ("LGPLv2+ and MIT", "LGPL-2.0-or-later AND MIT"),
        ("(MIT or GPL-2.0-only) and ISC", "(MIT OR GPL-2.0-only) AND ISC"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseX", "LicenseRef-LicenseX"),
        ("MIT or Foo", "MIT OR LicenseRef-Foo"),
    ],
)
def test_licences_in_the_words_of_spdx(text: str, expected: str) -> None:
    assert declared(text).expression == expected


@pytest.mark.parametrize("text", ["MIT ISC", "MIT or", "(MIT", "and MIT", "GPL-2+ with foo", "©"])
def test_what_is_no_expression_is_quoted_whole(text: str) -> None:
    licence = declared(text)
    assert licence.references == {licence.expression: text}


@given(st.text(max_size=60))
def test_any_licence_text_makes_a_valid_reference(text: str) -> None:
    for name in declared(text).references:
        assert re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", name)


@pytest.mark.parametrize("name", ["build", "evil\n\x1b[2J" + "x" * 9999, 7])
def test_the_bill_tells_of_the_stages_of_the_build(
    root: Path, tmp_path: Path, name: object
) -> None:
    (root / ".singularity.d").mkdir()
    stages = [{"name": name, "backend": "docker 1", "source": "debian"}, "none", 3]
    (root / ".singularity.d/build.json").write_text(json.dumps({"stages": stages}))
    document = check_valid(spdx.bill(directory(root), EPOCH), tmp_path)
    (stage,) = [p for p in document["packages"] if p["SPDXID"].startswith("SPDXRef-Stage")]  # type: ignore[attr-defined]
    assert stage["name"].startswith("stage ")
    assert stage["name"].isprintable()
    assert stage["sourceInfo"] == "docker 1: debian"
    assert {
        "spdxElementId": stage["SPDXID"],
        "relationshipType": "BUILD_DEPENDENCY_OF",
        "relatedSpdxElement": "SPDXRef-Image",
    } in document["relationships"]  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "[", "[]", '{"stages": {}}', "[" * 5000])
def test_a_record_of_the_build_that_is_none_is_passed_over(root: Path, text: str) -> None:
    (root / ".singularity.d").mkdir()
    (root / ".singularity.d/build.json").write_text(text)
    assert "SPDXRef-Stage" not in spdx.bill(directory(root), EPOCH)
