"""Signatures in a SIF, by gpg and by keys of PEM files; the real Apptainer's are in tests/long."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from singbuild.errors import ImageError
from singbuild.signatures import pgp, signing
from singrun.signatures import signers
from tests.bench import sif_files, signing_desk
from tests.bench.signing_desk import Desk, the

pytestmark = pytest.mark.skipif(
    not (shutil.which("gpg") and shutil.which("openssl")), reason="needs gpg and openssl"
)
desk = signing_desk.desk
sealed = signing_desk.sealed


@pytest.fixture
def sif(desk: Desk) -> Desk:
    """The desk with a SIF of the image."""
    root = sif_files.partition(desk.image.read_bytes(), sif_files.EXT3)
    labels = sif_files.Object(sif_files.LABELS, b"{}", name=b"labels.json")
    desk.image = sif_files.written(desk.place / "i.sif", [labels, root])
    return desk


@pytest.fixture
def gnupg(sif: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a key in a keyring of its own."""
    home = sif.place / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    new_key("ada@lab.example")
    yield "ada@lab.example"
    subprocess.run(["gpgconf", "--kill", "all"], check=True)


def new_key(name: str, until: str = "never") -> None:
    words = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", name]
    subprocess.run([*words, "ed25519", "sign", until], check=True, stderr=subprocess.DEVNULL)


def exported(desk: Desk, name: str) -> Path:
    path = desk.place / f"{name}.asc"
    words = ["gpg", "--batch", "--armor", "--export", name]
    path.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    return path


def pem_key(desk: Desk, name: str, *options: str) -> tuple[Path, Path]:
    private, public = desk.place / f"{name}.key", desk.place / f"{name}.pem"
    algorithm = options or ("-algorithm", "ed25519")
    make: list[str | Path] = ["openssl", "genpkey", *algorithm, "-out", private]
    subprocess.run(make, check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_a_pgp_signature_goes_round(sif: Desk, gnupg: str) -> None:
    before = sif.image.read_bytes()
    status, output = sif.run("sign", "--pgp", sif.image)
    assert (status, "in the SIF" in output) == (0, True), output
    start = 32176
    assert sif.image.read_bytes()[start : len(before)] == before[start:]
    status, verdict = sif.verified()
    assert (status, the(verdict), the(verdict, "scheme")) == (0, ["good"], ["pgp"])
    ring = exported(sif, gnupg)
    assert sif.verified("--signers", ring, "--signed-by", gnupg)[0] == 0
    new_key("bob@lab.example")
    other = exported(sif, "bob@lab.example")
    assert sif.verified("--signers", other)[0] == 10
    assert sif.run("sign", "--pgp", "--key", "bob@lab.example", sif.image)[0] == 0
    assert the(sif.verified("--signers", ring, "--signers", other)[1]) == ["good", "good"]


def test_revoked_and_expired_pgp_keys_are_refused(sif: Desk, gnupg: str) -> None:
    new_key("old@lab.example", "seconds=2")
    assert sif.run("sign", "--pgp", "--key", "old@lab.example", sif.image)[0] == 0
    while sif.verified()[0] == 0:
        pass
    status, verdict = sif.verified()
    assert (status, the(verdict), the(verdict, "reason")) == (
        10,
        ["refused"],
        ["its key has expired"],
    )
    # A revoked key: gpg makes the certificate with the key.
    assert sif.run("sign", "--pgp", "--key", gnupg, sif.image)[0] == 0
    words = ["gpg", "--list-keys", "--with-colons", gnupg]
    rows = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    fingerprint = next(row.split(":")[9] for row in rows.split("\n") if row.startswith("fpr"))
    certificate = sif.place / f"gnupg/openpgp-revocs.d/{fingerprint}.rev"
    text = certificate.read_text().replace(":-----BEGIN", "-----BEGIN")
    subprocess.run(["gpg", "--batch", "--quiet", "--import"], input=text.encode(), check=True)
    assert the(sif.verified()[1], "reason") == ["its key has expired", "its key is revoked"]


def test_removed_signatures_leave_the_file_that_was_signed(sif: Desk, gnupg: str) -> None:
    before = sif.image.read_bytes()
    private, _ = pem_key(sif, "ada")
    for words in (("--pgp",), ("--dsse", "--key", private), ("--key", sif.key("ssh"))):
        assert sif.run("sign", *words, sif.image)[0] == 0
    assert len(the(sif.verified()[1])) == 3
    status, output = sif.run("sign", "--remove", sif.image)
    assert (status, "3 signatures removed" in output) == (0, True), output
    assert not (sif.place / "i.sif.sig").exists()
    # Its maker's header may have another date than its objects; the rest is as it was.
    now = sif.image.read_bytes()
    assert (now[:72] + now[80:], len(now)) == (before[:72] + before[80:], len(before))
    assert sif.run("sign", "--remove", sif.image)[0] == 0
    assert sif.image.read_bytes() == now


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    ],
)
def test_a_dsse_signature_goes_round(sif: Desk, options: tuple[str, ...]) -> None:
    private, public = pem_key(sif, "ada", *options)
    assert sif.run("sign", "--dsse", "--key", private, sif.image)[0] == 0
    status, verdict = sif.verified("--signers", public, "--signed-by", "ada")
    assert (status, the(verdict), the(verdict, "principals")) == (0, ["good"], [["ada"]])
    _, other = pem_key(sif, "bob")
    assert sif.verified("--signers", other)[0] == 10
    assert (sif.verified()[0], the(sif.verified()[1])) == (0, ["unknown"])


@pytest.mark.parametrize("value", [-(1 << 63), (1 << 63) - 1, 1 << 40, 4096])
@pytest.mark.parametrize("field", [7, 11, 12])
def test_what_a_header_says_of_the_data_moves_no_signature(
    sif: Desk, field: int, value: int
) -> None:
    """The descriptors tell where the objects end: before that, a signature would overwrite one."""
    private, public = pem_key(sif, "ada")
    before = sif.image.read_bytes()
    head = [*sif_files.HEADER.unpack_from(before)]
    head[field] = value
    sif.image.write_bytes(sif_files.HEADER.pack(*head) + before[sif_files.HEADER.size :])
    if sif.run("sign", "--dsse", "--key", private, sif.image)[0]:
        assert field == 11
        return
    assert sif.image.stat().st_size < len(before) + 4096
    assert sif.verified("--signers", public)[0] == 0
    assert sif.run("sign", "--remove", sif.image)[0] == 0
    assert sif.image.read_bytes()[sif_files.HEADER.size :] == before[sif_files.HEADER.size :]


def test_ssh_signatures_of_a_sif_lie_beside_it(sif: Desk) -> None:
    key = sif.key()
    assert "in i.sif.sig" in sif.run("sign", "--key", key, sif.image)[1]
    assert the(sif.verified("--signers", sif.signers(key))[1]) == ["good"]


def test_a_signature_of_another_sif_is_bad(sif: Desk) -> None:
    private, public = pem_key(sif, "ada")
    one = sif.image
    root = sif_files.partition(sif.image.read_bytes()[32768:], sif_files.EXT3)
    labels = sif_files.Object(sif_files.LABELS, b"[]", name=b"labels.json")
    other = sif_files.written(sif.place / "o.sif", [labels, root])
    for image in (one, other):
        assert sif.run("sign", "--dsse", "--key", private, image)[0] == 0
    size = one.stat().st_size
    assert other.stat().st_size == size
    tail = other.read_bytes()[-2000:]
    data = one.read_bytes()
    start = tail.index(b'{"payloadType"')
    one.write_bytes(data[: size - len(tail) + start] + tail[start:])
    status, verdict = sif.verified("--signers", public)
    assert (status, the(verdict)) == (10, ["bad"])


def test_mutations_are_never_accepted(sif: Desk) -> None:
    """Of the header's first 64 bytes, of the table, of the objects and of the signature."""
    private, public = pem_key(sif, "ada")
    assert sif.run("sign", "--dsse", "--key", private, sif.image)[0] == 0
    data = sif.image.read_bytes()
    seed = int(os.environ.get("SINGBUILD_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    chance = random.Random(seed)
    places = [*range(64), *range(4096, 4096 + 3 * 585), *range(len(data) - 1000, len(data))]
    accepted = []
    for place in chance.sample(places, 60):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        sif.image.write_bytes(changed)
        status, output = sif.run("verify", "--signers", public, sif.image)
        assert "Traceback" not in output
        if status == 0:
            accepted.append(place)
    # What SIF leaves out of a signature: sif_file.py.
    assert [place for place in accepted if not is_unsigned(place)] == []


def is_unsigned(place: int) -> bool:
    """Whether a byte is no part of what is signed: see pkg/integrity, and the signature's own."""
    if place < 4096:
        return 45 <= place < 48  # the machine
    row, at = divmod(place - 4096, 585)
    if row == 2:
        return not (0 <= at < 5 or 13 <= at < 33)  # of the signature: its date, name, fingerprint
    return 5 <= at < 13 or 17 <= at < 25 or 33 <= at < 41 or 49 <= at < 57


def test_only_a_sif_takes_them(desk: Desk) -> None:
    private, _ = pem_key(desk, "ada")
    status, output = desk.run("sign", "--dsse", "--key", private, desk.image)
    assert (status, "is no SIF" in output) == (2, True)
    assert desk.run("sign", "--dsse", desk.image)[0] == 2


def test_a_signature_over_sha1_is_none(sif: Desk, gnupg: str) -> None:
    for algorithm, status in (("SHA256", signers.GOOD), ("SHA1", signers.BAD)):
        words = ["gpg", "--batch", "--digest-algo", algorithm, "--clearsign"]
        data = subprocess.run(words, input=b"{}\n", capture_output=True, check=True).stdout
        assert pgp.checked(data, None).status == status
        assert pgp.checked(data, [exported(sif, gnupg)]).status == status


@pytest.mark.usefixtures("gnupg")
def test_a_sif_whose_objects_lie_in_one_another_is_not_hashed_again_and_again(sif: Desk) -> None:
    root = sif_files.partition((sif.place / "i.img").read_bytes(), sif_files.EXT3)
    path = sif_files.written(sif.place / "many.sif", [root, *[sif_files.Object(1, b"")] * 40])
    data = bytearray(path.read_bytes())
    for number in range(1, 41):  # all of them the root file system again
        row = sif_files.TABLE + number * 585
        data[row + 17 : row + 33] = data[sif_files.TABLE + 17 : sif_files.TABLE + 33]
    path.write_bytes(data)
    status, output = sif.run("sign", "--pgp", path)
    assert (status, "lie in one another" in output) == (8, True), output


def interrupted(sif: Desk, key: Path, meanwhile: Callable[[], object]) -> None:
    """Sign while something else is done between reading the SIF and reading the key."""
    fifo = sif.place / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        signer = pool.submit(signing.in_sif, sif.image, fifo, scheme="dsse")
        with fifo.open("wb") as pipe:  # once the signer opens it, too
            meanwhile()
            pipe.write(key.read_bytes())
        signer.result()


def test_a_signature_that_is_made_meanwhile_stays(sif: Desk) -> None:
    (ada, ada_public), (bob, bob_public) = pem_key(sif, "ada"), pem_key(sif, "bob")
    interrupted(sif, ada, lambda: signing.in_sif(sif.image, bob, scheme="dsse"))
    status, verdict = sif.verified("--signers", ada_public, "--signers", bob_public)
    assert (status, the(verdict), the(verdict, "principals")) == (
        0,
        ["good", "good"],
        [["bob"], ["ada"]],
    )


def test_what_is_changed_while_it_is_signed_gets_no_signature(sif: Desk) -> None:
    with pytest.raises(ImageError, match="changed while it was signed"):
        interrupted(sif, pem_key(sif, "ada")[0], lambda: set_group(sif.image, 1, 7))


def set_group(image: Path, number: int, group: int) -> None:
    """Put an object of a SIF, by its number, into a group."""
    with image.open("r+b") as file:
        file.seek(sif_files.TABLE + (number - 1) * sif_files.DESCRIPTOR.size + 9)
        file.write(struct.pack("<I", group))


def test_a_group_without_the_root_file_system_counts_for_nobody(sif: Desk) -> None:
    private, public = pem_key(sif, "ada")
    set_group(sif.image, 1, 0xF0000002)
    assert sif.run("sign", "--dsse", "--key", private, sif.image)[0] == 0
    status, verdict = sif.verified("--signers", public)
    assert (status, the(verdict)) == (0, ["good", "unknown"])


def test_a_user_id_of_pgp_is_no_pattern(sif: Desk, gnupg: str) -> None:
    """Who makes a key writes what he likes into it."""
    name = "*@lab.example"
    new_key(name)
    assert sif.run("sign", "--pgp", "--key", f"={name}", sif.image)[0] == 0
    assert sif.verified("--signed-by", gnupg)[0] == 10
    assert sif.verified("--signed-by", name)[0] == 0
