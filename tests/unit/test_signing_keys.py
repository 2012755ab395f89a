"""Keys that sign by an agent, ask for a passphrase, or cannot sign."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.unit.test_signatures import Desk, agent, desk, sealed, the

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
    status, said = desk.run("sign", "--agent", desk.image)
    assert (status, "has 2 keys" in said) == (2, True)
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
    status, said = desk.run("sign", "--key", key, desk.image)
    assert (status, "ssh-keygen failed" in said) == (5, True)
    assert desk.image.read_bytes() == before


def test_a_damaged_image_is_not_signed(desk: Desk) -> None:
    key = desk.key()
    data = bytearray(desk.image.read_bytes())
    data[-5000] ^= 1
    desk.image.write_bytes(data)
    status, said = desk.run("sign", "--key", key, desk.image)
    assert (status, "/proc/self" in said, "i.img" in said) == (8, False, True)
