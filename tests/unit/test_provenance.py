"""What an image's provenance says: fields that in-toto's own library knows, of all that went in."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from singbuild.cli.main import commands
from singbuild.errors import SingbuildError
from singbuild.ext3.writer.seal import seal
from singbuild.formats.loading import recorded_digest

EPOCH = 1_700_000_000
ONE, TWO, THREE, FOUR = (letter * 64 for letter in "abcd")
LOCK = f"""version: 1
recipe: {{name: tool.def, sha256: {ONE}}}
arguments: {{release: trixie}}
backend: {{name: debootstrap, distribution: singbuild, version: 0.1.0}}
singbuild: 0.1.0
arch: x86_64
epoch: 1700000000
pins:
  mirror: http://mirror.example/debian
  packages:
    a: {{version: '1', sha256: {TWO}, size: 10, file: pool/a.deb}}
    gone: {{version: '2', sha256: {THREE}, size: 10, file: pool/gone.deb}}
  layers: [{{digest: 'sha256:{FOUR}', diff_id: 'sha256:{ONE}', size: 3}}]
files: {{script.py: 'sha256:{FOUR}'}}
tools: {{debootstrap: 1.0.128}}
stages:
  compile: {{pins: {{sha256: {TWO}, url: 'http://mirror.example/busybox'}}, files: {{}}}}
"""
RECORD = {"singbuild": "0.1.0", "free": 4, "steps": [{"name": "post", "reason": "line 3: %post"}]}
STATUS = "".join(
    f"Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
    for name in ("a", "b")
)


def image(place: Path, lock: str = LOCK) -> Path:
    root = place / "root"
    files = {
        ".singularity.d/lock.yaml": lock,
        ".singularity.d/build.json": json.dumps(RECORD),
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "var/lib/dpkg/status": STATUS,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return seal(root, place / "tool.img", epoch=EPOCH).path


def output_of(*words: str | Path) -> str:
    result = CliRunner().invoke(commands, [str(word) for word in words], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def dependencies(path: Path) -> dict[str, Any]:
    text = json.loads(output_of("inspect", "--provenance", path))
    rows = text["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {row["name"]: row for row in rows}


def test_the_library_of_in_toto_knows_each_field(tmp_path: Path) -> None:
    path = image(tmp_path)
    text = output_of("inspect", "--provenance", path)
    message = json_format.Parse(text, Message())
    Statement.copy_from_pb(message).validate()
    predicate = json_format.ParseDict(json_format.MessageToDict(message.predicate), Provenance())
    assert message.predicate_type == "https://slsa.dev/provenance/v1"
    assert predicate.run_details.builder.version["singbuild"] == "0.1.0"
    assert len(predicate.build_definition.resolved_dependencies) == 8
    subject = json.loads(text)["subject"]
    assert [f"sha256:{each}" for each in subject[0]["digest"].values()] == [recorded_digest(path)]


def test_equal_images_have_equal_statements_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    texts = {
        output_of("inspect", "--provenance", image(tmp_path / name)) for name in ("one", "two")
    }
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["tool.sqfs", "tool.sif"])
def test_of_another_format_it_is_about_the_file(tmp_path: Path, name: str) -> None:
    if not shutil.which("tar2sqfs"):
        pytest.skip("needs tar2sqfs")
    output_of("convert", image(tmp_path), tmp_path / name)
    statement, first = (
        json.loads(output_of("inspect", "--provenance", tmp_path / each))
        for each in (name, "tool.img")
    )
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "content", "digest": {"sha256": digest}}]
    assert statement["predicate"] == first["predicate"]


def test_a_directory_has_none(tmp_path: Path) -> None:
    image(tmp_path)
    with pytest.raises(SingbuildError, match="records no digest"):
        output_of("inspect", "--provenance", tmp_path / "root")


def test_recipe_packages_layers_and_files_have_their_digests(tmp_path: Path) -> None:
    rows = dependencies(image(tmp_path))
    assert rows["recipe tool.def"]["digest"] == {"sha256": ONE}
    pinned = rows["pins.packages.a"]
    assert pinned["digest"] == {"sha256": TWO}
    assert pinned["uri"] == "pkg:deb/debian/a@1?arch=all&distro=debian-12"
    assert pinned["annotations"]["file"] == "pool/a.deb"
    assert "uri" not in rows["pins.packages.gone"]
    assert rows["b"] == {"name": "b", "uri": "pkg:deb/debian/b@1?arch=all&distro=debian-12"}
    assert rows["pins.layers.0"]["digest"] == {"sha256": FOUR}
    assert rows["pins.layers.0.diff_id"]["digest"] == {"sha256": ONE}
    assert rows["%files script.py"]["digest"] == {"singbuildTreeSha256": FOUR}
    assert rows["stage compile: pins"]["annotations"] == {"url": "http://mirror.example/busybox"}


@pytest.mark.parametrize(
    "lock",
    [
        "pins: [1, {sha256: 3}, {digest: [sha256]}]\nfiles: []\nstages: {a: 1, b: {files: {x: y}}}",
        "pins: {packages: {a: {version: {}, sha256: " + ONE + "}}}\nrecipe: text\narguments: 7",
        f"pins: {'[' * 200}{ONE}{']' * 200}",
    ],
)
def test_a_lock_of_strangers_is_no_traceback(tmp_path: Path, lock: str) -> None:
    output_of("inspect", "--provenance", image(tmp_path, lock))


@pytest.mark.parametrize("lock", ["", "text", f"pins: {'[' * 40_000}"])
def test_an_image_without_a_lock_has_none(tmp_path: Path, lock: str) -> None:
    with pytest.raises(SingbuildError, match="does not say how it was built"):
        output_of("inspect", "--provenance", image(tmp_path, lock))
