"""Keys that sign by an agent, ask for a passphrase, or cannot sign."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from singbuild.signatures import dsse, trusted_keys
from tests.bench.signing_desk import Desk, agent, desk, sealed, the
from tests.bench.singrun_images import ROOT

__all__ = ["agent", "desk", "sealed"]

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")


@pytest.mark.usefixtures("agent")
def test_the_agents_key_signs(desk: Desk) -> None:
    assert desk.run("sign", "--agent", desk.image)[0] == 2
    key = desk.key()
    subprocess.run(["ssh-add", "-q", key], check=True, stderr=subprocess.DEVNULL)
    key.unlink()
    assert desk.run("sign", "--agent", desk.image)[0] == 0
    assert the(desk.verified("--signers", desk.signers(key))[1]) == ["good"]
    other = desk.key("other")
    subprocess.run(["ssh-add", "-q", other], check=True, stderr=subprocess.DEVNULL)
    status, output = desk.run("sign", "--agent", desk.image)
    assert (status, "has 2 keys" in output) == (2, True)
    assert desk.run("sign", "--key", f"{key}.pub", desk.image)[0] == 0


def test_a_key_with_a_passphrase_asks_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = desk.key("ada", "ed25519", "-N", "open")
    ask = desk.place / "ask"
    ask.write_text("#!/bin/sh\necho open\n")
    ask.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    assert desk.run("sign", "--key", key, desk.image)[0] == 0
    ask.write_text("#!/bin/sh\necho shut\n")
    before = desk.image.read_bytes()
    status, output = desk.run("sign", "--key", key, desk.image)
    assert (status, "ssh-keygen failed" in output) == (5, True)
    assert desk.image.read_bytes() == before


def test_a_key_with_a_password_that_nobody_can_be_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    cipher = serialization.BestAvailableEncryption(b"open")
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*form, cipher))
    script = "import sys, pathlib; from singbuild.signatures import dsse; "
    script += "dsse.private_key(pathlib.Path(sys.argv[1]))"
    words = [sys.executable, "-c", script, str(path)]
    for stdin, status, answer in (("", 1, "there is no terminal to ask on"), ("open\n", 0, "")):
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, cwd=ROOT, start_new_session=True
        )
        assert (done.returncode, answer in done.stderr) == (status, True), done


def test_a_damaged_image_is_not_signed(desk: Desk) -> None:
    key = desk.key()
    data = bytearray(desk.image.read_bytes())
    data[-5000] ^= 1
    desk.image.write_bytes(data)
    status, output = desk.run("sign", "--key", key, desk.image)
    assert (status, "/proc/self" in output, "i.img" in output) == (8, False, True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "status"),
    [
        (".config/singbuild/allowed_signers", 0),
        (".config/singbuild/keys/a.pem", 0),
        (".ssh/allowed_signers", 0),
        (".config/singbuild/revoked_keys", 8),  # what it would revoke is not known
    ],
)
def test_a_fifo_in_the_place_of_a_users_file_keeps_nobody_waiting(
    desk: Desk, name: str, status: int
) -> None:
    assert desk.run("sign", "--key", desk.key(), desk.image)[0] == 0
    fifo = desk.place / "home" / name
    fifo.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(fifo)
    exit_status, output = desk.run("verify", desk.image)
    assert (exit_status, "It is a FIFO" in output) == (status, status == 8), output
    exit_status, output = desk.run("verify", "--signers", fifo, desk.image)
    assert (exit_status, "cannot read the list of signers" in output) == (8, True), output


@pytest.mark.timeout(60)
def test_a_fifo_is_no_key_of_the_user(desk: Desk) -> None:
    (desk.place / "home/.ssh").mkdir(parents=True, exist_ok=True)
    os.mkfifo(desk.place / "home/.ssh/id_ed25519")
    status, output = desk.run("sign", desk.image)
    assert (status, "there is no SSH key" in output) == (2, True), output


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_dockers_settings_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    done = subprocess.run(
        [sys.executable, "-m", "singbuild", "logout", "127.0.0.1:1"],
        env=os.environ | {"DOCKER_CONFIG": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "no regular file" in done.stderr) == (5, True), done.stderr


def test_keys_of_files_with_one_name_are_all_trusted(tmp_path: Path) -> None:
    """The site's list and the user's may each have a key of an Ada."""
    paths = [tmp_path / place / "ada.pem" for place in ("site", "user")]
    own = [ed25519.Ed25519PrivateKey.generate() for _ in paths]
    for path, key in zip(paths, own, strict=True):
        path.parent.mkdir()
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(key.public_key().public_bytes(*form))
    keys = trusted_keys.load(paths, []).keys
    assert [name for name, _ in keys] == ["ada", "ada"]
    for key in own:
        assert dsse.opened(dsse.envelope(b"x", "kind", key), "kind", keys).names == ("ada",)
