"""singularity sign and verify; tests/long/clients types the same lines to Apptainer, too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.signing_desk import Desk
from tests.unit import test_sif_signatures
from tests.unit.test_sif_signatures import pem_key, set_group

pytestmark = test_sif_signatures.pytestmark
desk, sealed = test_sif_signatures.desk, test_sif_signatures.sealed
sif, gnupg = test_sif_signatures.sif, test_sif_signatures.gnupg

Say = Callable[..., tuple[int, str, str]]
OBJECTS = """\
Objects verified:
ID  |GROUP   |LINK    |TYPE
------------------------------------------------
1   |1       |NONE    |JSON.Labels
2   |1       |NONE    |FS
"""


@pytest.fixture
def say(sif: Desk) -> Say:
    """Type words after singularity; return its status and what it prints."""

    def run(*words: str | Path, **more: str) -> tuple[int, str, str]:
        argv = [Path(sys.executable).with_name("singularity"), *words]
        env = {**os.environ, "HOME": str(sif.place), **more}
        done = subprocess.run(argv, cwd=sif.place, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_key_file_signs_and_verifies(sif: Desk, say: Say) -> None:
    private, public = pem_key(sif, "ada")
    assert say("verify", "--key", public, "i.sif") == (
        255,
        "",
        f"INFO:    Verifying image with key material from '{public}'\n"
        "FATAL:   Failed to verify container: "
        "integrity: signature not found for object group 1\n",
    )
    assert say("sign", "--key", private, "i.sif") == (
        0,
        "",
        f"INFO:    Signing image with key material from '{private}'\n"
        "INFO:    Signature created and applied to image 'i.sif'\n",
    )
    status, out, errors = say("verify", "i.sif", SINGULARITY_VERIFY_KEY=str(public))
    assert (status, out) == (0, OBJECTS)
    assert errors.endswith("INFO:    Verified signature(s) from image 'i.sif'\n")
    assert say("-q", "verify", "--key", public, "i.sif") == (0, OBJECTS, "")
    other = pem_key(sif, "bob")[1]
    status, out, errors = say("verify", "--key", other, "i.sif")
    assert (status, out) == (255, "")
    assert "FATAL:   Failed to verify container: " in errors


def test_gpgs_key_signs_and_two_keyrings_are_known(sif: Desk, gnupg: str, say: Say) -> None:
    assert say("sign", "i.sif")[0] == 0
    status, out, _ = say("verify", "--all", "i.sif")
    assert (status, out.partition("Objects")[1:]) == (0, ("Objects", OBJECTS[7:]))
    assert out.startswith(f"[LOCAL]            Signing entity: {gnupg}\n[LOCAL]            Finger")
    about = json.loads(say("verify", "--json", "i.sif")[1])
    assert about["Signatures"] == 1
    assert [each["Signer"]["Partition"] for each in about["SignerKeys"]] == ["JSON.Labels", "FS"]
    empty = sif.place / "empty"
    empty.mkdir(mode=0o700)
    status, out, errors = say("verify", "--local", "i.sif", GNUPGHOME=str(empty))
    assert (status, out) == (255, "")
    assert "in no keyring" in errors
    ring = sif.place / ".apptainer/keys/pgp-public"
    ring.parent.mkdir(parents=True)
    subprocess.run(["gpg", "--batch", "--export", "-o", ring, gnupg], check=True)
    assert say("verify", "i.sif", GNUPGHOME=str(empty))[0] == 0


def test_two_good_signatures_and_a_changed_image(sif: Desk, gnupg: str, say: Say) -> None:
    private, public = pem_key(sif, "ada")
    assert say("sign", "i.sif")[0] == say("sign", "--key", private, "i.sif")[0] == 0
    # As with Apptainer, every signature has to be good, and one of PGP needs a keyring.
    assert say("verify", "--key", public, "i.sif")[0] == 255
    shutil.copy(sif.place / "i.sif", sif.place / "c.sif")
    with (sif.place / "c.sif").open("r+b") as file:
        file.seek(40000)
        file.write(b"\xff\0\xff")
    status, out, errors = say("verify", "c.sif")
    assert (status, out) == (255, "")
    assert "it is over another image" in errors


def test_what_is_no_sif_is_refused(sif: Desk, say: Say) -> None:
    (sif.place / "x").write_bytes(b"x" * 70000)
    assert "invalid SIF magic" in say("verify", "x")[2]
    assert "is no SIF" in say("sign", "x")[2]
    assert say("verify", "absent")[0] == 255


def test_the_header_and_an_object_are_shown(sif: Desk, say: Say) -> None:
    status, out, _ = say("sif", "header", "i.sif")
    rows = dict(line.split(":", 1) for line in out.splitlines())
    assert status == 0
    assert (rows["Version"].strip(), rows["Descriptors Offset"].strip()) == ("01", "4096")
    assert say("sif", "info", "1", "i.sif")[1].splitlines()[-1] == "  Name:         labels.json"
    status, out, _ = say("sif", "info", "2", "i.sif")
    assert "  Filesystem Type:  Ext3\n  Partition Type:   *System\n" in out
    assert say("sif", "info", "7", "i.sif")[0] == 255


def test_each_group_has_a_signature_of_its_own(sif: Desk, say: Say) -> None:
    private, public = pem_key(sif, "ada")
    set_group(sif.image, 1, 0xF0000002)
    assert say("sign", "--key", private, "i.sif")[0] == 0
    status, out, _ = say("verify", "--key", public, "i.sif")
    rows = ["2   |1       |NONE    |FS", "1   |2       |NONE    |JSON.Labels"]
    assert (status, out.splitlines()[-2:]) == (0, rows)


def test_a_sif_without_groups_has_nothing_to_sign(sif: Desk, say: Say) -> None:
    private, public = pem_key(sif, "ada")
    for number in (1, 2):
        set_group(sif.image, number, 0)
    before = sif.image.read_bytes()
    status, out, errors = say("sign", "--key", private, "i.sif")
    assert (status, out, "applied" in errors) == (255, "", False)
    assert "has nothing to sign" in errors
    assert sif.image.read_bytes() == before
    status, out, errors = say("verify", "--key", public, "i.sif")
    assert (status, out) == (255, "")
    assert errors.endswith("Failed to verify container: integrity: no groups found\n")
