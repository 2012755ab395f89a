"""Signatures of images by SSH keys: made and checked by ours and by the real ssh-keygen."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from singbuild.ext3.writer.seal import seal
from singbuild.signatures import signing
from singrun.signatures import sshsig, statement
from tests.bench.image_trees import sample_tree
from tests.bench.signing_desk import Desk, agent, desk, public, sealed, the

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
__all__ = ["agent", "desk", "sealed"]  # fixtures
ADA = "ada@lab.example"


def by_openssh(desk: Desk, allowed: Path, number: int = 1, name: str = ADA) -> bool:
    """Whether ssh-keygen itself accepts what verify extracts."""
    out = desk.place / "out"
    desk.run("verify", "--extract", out, desk.image)
    words: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        allowed,
        "-I",
        name,
        "-n",
        "singbuild-image",
    ]
    text = (out / f"{number}").read_bytes()
    done = subprocess.run([*words, "-s", out / f"{number}.sig"], input=text, check=False)
    return done.returncode == 0


def sign_statement(desk: Desk, key: Path, namespace: str) -> None:
    """Have ssh-keygen sign the file s."""
    words: list[str | Path] = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key]
    subprocess.run([*words, desk.place / "s"], check=True)


@pytest.mark.parametrize(
    ("kind", "options", "place"),
    [
        ("ed25519", (), "boot block"),
        ("ecdsa", (), "boot block"),
        ("ecdsa", ("-b", "521"), "boot block"),
        ("rsa", ("-b", "3072"), "i.img.sig"),
    ],
)
def test_a_signature_goes_round(
    desk: Desk, kind: str, options: tuple[str, ...], place: str
) -> None:
    before = desk.image.read_bytes()
    key = desk.key("ada", kind, *options)
    status, text = desk.run("sign", "--key", key, desk.image)
    assert (status, f"in {place}" in text) == (0, True), text
    assert desk.image.read_bytes()[1024:] == before[1024:]
    allowed = desk.signers(key)
    status, verdict = desk.verified("--signers", allowed, "--signed-by", ADA)
    assert (status, verdict["accepted"], verdict["missing"]) == (0, True, [])
    assert (the(verdict), the(verdict, "place")) == (["good"], [place])
    assert by_openssh(desk, allowed)
    status, text = desk.run("verify", "--signers", allowed, desk.image)
    assert (status, f"signed by {ADA} on " in text) == (0, True)


@pytest.mark.root
def test_a_user_whom_ssh_keygen_does_not_know_is_told_so(desk: Desk) -> None:
    """As containers have them: no entry in /etc/passwd."""
    assert desk.run("sign", "--key", desk.key(), desk.image)[0] == 0
    words = [sys.executable, "-m", "singbuild", "verify", "/dev/stdin"]
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    home = {"HOME": "/", "PATH": os.environ["PATH"]}
    with desk.image.open("rb") as image:
        done = subprocess.run(
            [*become, *words], stdin=image, env=home, capture_output=True, text=True
        )
    assert done.returncode == 5, done
    assert "No user exists for uid 54321" in done.stderr
    assert "is damaged" not in done.stdout + done.stderr


def test_an_unsigned_image_is_sound_and_says_what_is_missing(desk: Desk) -> None:
    key = desk.key()
    assert desk.verified()[0] == 0
    status, verdict = desk.verified("--signers", desk.signers(key))
    assert (status, verdict["accepted"]) == (10, False)
    status, text = desk.run("verify", "--signed-by", ADA, desk.image)
    assert (status, f"is not signed by {ADA}" in text) == (10, True)


def test_the_users_own_list_is_asked(desk: Desk) -> None:
    key = desk.key()
    desk.run("sign", "--key", key, desk.image)
    status, verdict = desk.verified()
    assert (status, the(verdict)) == (0, ["unknown"])
    (desk.place / "home/.ssh/allowed_signers").write_text(desk.signers(key).read_text())
    assert the(desk.verified()[1]) == ["good"]


def test_four_signatures_fit_and_the_fifth_lies_beside(desk: Desk) -> None:
    keys = [desk.key(f"k{number}") for number in range(6)]
    for key in keys:
        assert desk.run("sign", "--key", key, desk.image)[0] == 0
    allowed = desk.signers(*keys)
    status, verdict = desk.verified("--signers", allowed)
    assert (status, the(verdict)) == (0, ["good"] * 6)
    assert the(verdict, "place") == ["boot block"] * 4 + ["i.img.sig"] * 2
    assert all(by_openssh(desk, allowed, n + 1, f"k{n}@lab.example") for n in range(6))
    beside = (desk.place / "i.img.sig").read_bytes()
    assert desk.run("sign", "--key", keys[0], desk.image)[0] == 0  # again: where its first was
    assert (len(the(desk.verified()[1])), (desk.place / "i.img.sig").read_bytes()) == (6, beside)
    assert desk.run("sign", "--remove", desk.image)[1].endswith("6 signatures removed\n")
    assert (the(desk.verified()[1]), (desk.place / "i.img.sig").exists()) == ([], False)


def test_what_ssh_keygen_signed_is_taken(desk: Desk) -> None:
    key = desk.key()
    text = desk.run("sign", "--statement", desk.image)[1]
    (desk.place / "s").write_text(text)
    sign_statement(desk, key, "singbuild-image")
    assert desk.run("sign", "--add", desk.place / "s", desk.image)[0] == 0
    assert the(desk.verified("--signers", desk.signers(key))[1]) == ["good"]
    # The same in a file of one's own making.
    desk.run("sign", "--remove", desk.image)
    beside = (desk.place / "s").read_text() + (desk.place / "s.sig").read_text()
    (desk.place / "i.img.sig").write_text(beside)
    assert the(desk.verified("--signers", desk.signers(key))[1]) == ["good"]


def test_another_namespace_is_refused(desk: Desk) -> None:
    key = desk.key()
    (desk.place / "s").write_text(desk.run("sign", "--statement", desk.image)[1])
    sign_statement(desk, key, "file")
    status, output = desk.run("sign", "--add", desk.place / "s", desk.image)
    assert (status, "'file', not for 'singbuild-image'" in output) == (10, True)
    beside = (desk.place / "s").read_text() + (desk.place / "s.sig").read_text()
    (desk.place / "i.img.sig").write_text(beside)
    status, output = desk.run("verify", desk.image)
    assert (status, "'file', not for" in output) == (8, True)


def test_revoked_and_expired_keys_are_refused(desk: Desk) -> None:
    key = desk.key()
    desk.run("sign", "--key", key, desk.image)
    krl, plain = desk.place / "krl", desk.place / "revoked"
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-f", krl, f"{key}.pub"], check=True, stdout=subprocess.DEVNULL
    )
    plain.write_text(public(key) + "\n")
    for ban in (krl, plain):
        status, verdict = desk.verified("--signers", desk.signers(key), "--revoked", ban)
        assert (status, the(verdict), the(verdict, "reason")) == (
            10,
            ["refused"],
            ["its key is revoked"],
        )
    for options in (
        'valid-before="20200101"',
        'valid-after="20990101"',
        'namespaces="git"',
    ):
        status, verdict = desk.verified("--signers", desk.signers(key, options=options))
        assert (status, the(verdict)) == (10, ["refused"]), options
    good = 'namespaces="singbuild-image",valid-before="20990101",valid-after="20200101"'
    assert desk.verified("--signers", desk.signers(key, options=good))[0] == 0


def test_a_key_that_was_not_valid_when_it_signed_is_refused(desk: Desk) -> None:
    from singbuild.signatures import signing

    key = desk.key()
    make = lambda own_statement: signing.by_key(own_statement, key, agent=False)  # noqa: E731
    signing.sign(desk.image, make, "20190101T000000Z")
    allowed = desk.signers(key, options='valid-after="20200101"')
    status, verdict = desk.verified("--signers", allowed)
    assert (status, the(verdict, "reason")) == (10, ["its key was not valid on the day it signed"])
    for date in ("20990101T000000Z", "20210230T000000Z"):
        signing.sign(desk.image, make, date)
        status, verdict = desk.verified("--signers", allowed)
        assert (status, the(verdict)) == (10, ["refused"])


def test_signatures_of_another_image_are_bad(desk: Desk, tmp_path: Path) -> None:
    key = desk.key()
    other = seal(
        sample_tree(tmp_path / "other", hole=1 << 20, files=20), tmp_path / "other.img", epoch=2**29
    ).path
    for image in (other, desk.image):
        assert desk.run("sign", "--key", key, image)[0] == 0
        rsa = tmp_path / "rsa"
        if not rsa.exists():
            desk.key("rsa", "rsa")
        assert desk.run("sign", "--key", rsa, image)[0] == 0
    signed = other.read_bytes()[:1024], desk.image.read_bytes()[:1024]
    with desk.image.open("r+b") as file:  # its own records, the other's signature
        start = signed[1].index(b"# file")
        file.seek(start)
        file.write(signed[0][start:])
    shutil.copy(tmp_path / "other.img.sig", tmp_path / "i.img.sig")
    status, verdict = desk.verified("--signers", desk.signers(key, rsa))
    assert (status, the(verdict)) == (10, ["bad", "bad"])


def test_a_changed_image_is_damaged_whoever_signed_it(desk: Desk) -> None:
    desk.run("sign", "--key", desk.key(), desk.image)
    data = bytearray(desk.image.read_bytes())
    data[-5000] ^= 1
    desk.image.write_bytes(data)
    assert desk.run("verify", desk.image)[0] == 8


def test_mutations_of_the_boot_block_are_never_accepted(desk: Desk) -> None:
    keys = [desk.key(f"k{number}") for number in range(5)]
    for key in keys:
        desk.run("sign", "--key", key, desk.image)
    allowed = desk.signers(*keys)
    boot = desk.image.read_bytes()[:1024]
    seed = int(os.environ.get("SINGBUILD_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    chance = random.Random(seed)
    for place in chance.sample(range(1024), 40):
        changed = bytearray(boot)
        changed[place] ^= 1 << chance.randrange(8)
        with desk.image.open("r+b") as file:
            file.write(changed)
        status, output = desk.run("verify", "--signers", allowed, desk.image)
        assert status in (8, 10), (place, output)
        assert "Traceback" not in output


def test_a_seal_drops_signatures(desk: Desk) -> None:
    desk.run("create", "--size", "8", desk.place / "c.img")
    key = desk.key()
    assert desk.run("sign", "--key", key, desk.place / "c.img")[0] == 0
    assert b"# signature" in (desk.place / "c.img").read_bytes()[:1024]
    assert desk.run("expand", "-q", "--size", "4", desk.place / "c.img")[0] == 0
    assert b"# signature" not in (desk.place / "c.img").read_bytes()[:1024]
    assert desk.run("verify", desk.place / "c.img")[0] in (0, 8)


def test_an_image_of_others_is_signed_beside(desk: Desk) -> None:
    key = desk.key()
    if os.geteuid():
        desk.image.chmod(0o444)
    out = desk.place / "mine.sig"
    status, output = desk.run("sign", "--key", key, "-o", out, desk.image)
    assert (status, "in mine.sig" in output) == (0, True)
    assert (desk.verified()[0], the(desk.verified()[1])) == (0, [])
    assert desk.run("sign", "--key", key, desk.image)[0] == 0  # now it has one itself
    assert desk.run("sign", "--key", key, "-o", out, desk.image)[0] == 0
    assert the(desk.verified("--signatures", out)[1], "place") == ["boot block", "mine.sig"]
    desk.run("sign", "--remove", desk.image)
    words = ("--signatures", out, "--signers", desk.signers(key))
    assert (desk.verified(*words)[0], the(desk.verified(*words)[1])) == (0, ["good"])


@pytest.mark.parametrize(
    ("words", "status", "answer"),
    [
        (("sign", "none.img"), 8, "cannot open the image"),
        (("sign", "--key", "none", "i.img"), 2, "there is no file none"),
        (("sign", "i.img"), 2, "there is no SSH key in"),
        (("sign", "--agent", "--key", "none", "i.img"), 2, "only one"),
        (("sign", "--add", "none", "i.img"), 2, "cannot read"),
        (("verify", "--signers", "none", "i.img"), 8, "cannot read the list of signers none"),
        (("sign", "home"), 8, "is no image file"),
    ],
)
def test_what_cannot_be_is_told(
    desk: Desk, words: tuple[str, ...], status: int, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.place)
    verdict, output = desk.run(*words)
    assert (verdict, answer in output) == (status, True), output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["fifo", "endless", "link to nothing", "directory"])
def test_what_lies_beside_an_image_keeps_nobody_waiting(desk: Desk, kind: str) -> None:
    beside = desk.image.with_name(desk.image.name + ".sig")
    if kind == "fifo":
        os.mkfifo(beside)
    elif kind == "directory":
        beside.mkdir()
    else:
        beside.symlink_to("/dev/zero" if kind == "endless" else "nothing")
    key = desk.key()
    for words in (["verify"], ["sign", "--remove"], ["sign", "--key", key]):
        status, text = desk.run(*words, desk.image)
        assert status == 8, text
        assert ".sig" in text


def test_texts_and_bytes_that_are_no_signatures_are_refused() -> None:
    key = b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20" + bytes(range(32))
    value = b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + bytes(64)
    signature = sshsig.Signature(key, value)
    armor = signature.armored()
    assert sshsig.dearmored(armor).armored() == armor
    assert sshsig.unpacked(signature.packed()).armored() == armor
    for bad in ("", "AAAA", "=", signature.packed()[:-4], signature.packed() + "AAAA", "A" * 99999):
        with pytest.raises(ValueError, match=r"it|something"):
            sshsig.unpacked(bad)
    for bad in ("", armor[:-3], armor.replace("\n", ""), armor.replace("U1NIU0lH", "U1NIU0lI")):
        with pytest.raises(ValueError, match=r"it|something"):
            sshsig.dearmored(bad)
    text = statement.Statement("", 0, "sha256:" + "0" * 64, "20260101T000000Z", "signed").text()
    assert statement.parsed(text).text() == text
    for bad in ("", text[:-1], text + "\n", text.replace("signed", "perfect")):
        with pytest.raises(ValueError, match=r"it|nobody"):
            statement.parsed(bad)
    with pytest.raises(ValueError, match="more than"):
        statement.in_text((text + armor) * 65)
    with pytest.raises(ValueError, match="end with"):
        statement.in_text(text + armor + "x")


def test_signers_at_once_lose_no_signature_of_a_file_beside(desk: Desk) -> None:
    """That an image is not written must not mean that nobody is kept out."""
    count, out, date = 6, desk.place / "out.sig", "20261129T210000Z"
    its_statement = signing.statement_of(desk.image, date)
    ready = [signing.by_key(its_statement, desk.key(f"k{n}"), agent=False) for n in range(count)]
    all_signed = threading.Barrier(count)

    def sign(new: statement.Signed) -> None:
        def signed(_: statement.Statement) -> statement.Signed:
            all_signed.wait()
            return new

        signing.sign(desk.image, signed, date, beside=out)

    with ThreadPoolExecutor(count) as pool:
        deque(pool.map(sign, ready), maxlen=0)
    assert the(desk.verified("--signatures", out)[1], "place") == [out.name] * count
    assert not [*desk.place.glob("*.owner*")]


def test_signatures_of_another_file_are_removed_alone(desk: Desk) -> None:
    key, out = desk.key(), desk.place / "mine.sig"
    for words in ((), ("-o", out)):
        assert desk.run("sign", "--key", key, *words, desk.image)[0] == 0
    status, output = desk.run("sign", "--remove", "-o", out, desk.image)
    assert (status, output.endswith(": 1 signature removed\n"), out.exists()) == (0, True, False)
    assert the(desk.verified()[1], "place") == ["boot block"]
