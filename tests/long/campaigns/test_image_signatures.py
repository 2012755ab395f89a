"""Signed images with every signed byte changed, cut short, and with signatures that are not theirs.

None may be accepted, and none end in anything but an error of ours.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.errors import SingbuildError
from singbuild.ext3.writer.seal import seal
from singbuild.signatures import report, sif_signatures, signing, trusted_keys
from singbuild.signatures.image_file import opened
from singbuild.signatures.trusted_keys import TrustedKeys
from singrun.signatures import sshsig, statement
from singrun.signatures.statement import Signed
from tests.bench import campaign, sif_files
from tests.bench.image_trees import with_manifest
from tests.unit.test_sif_signatures import is_unsigned

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
INPUTS = 5000
DATE = "20260101T000000Z"
MACHINE = 45  # a byte of a SIF that nobody signs
HEADER, TABLE, ROW = 64, 4096, 585  # of a SIF, bytes: what of the header is signed; the table


class Desk:
    """Two signed images of each kind, and who is known."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("ada", "old"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
            subprocess.run(words, check=True)
        self.public = {n: (place / f"{n}.pub").read_text() for n in ("ada", "old")}
        (place / "signers").write_text(f"ada {self.public['ada']}")
        (place / "expired").write_text(f'ada valid-before="20200101" {self.public["ada"]}')
        (place / "git").write_text(f'ada namespaces="git" {self.public["ada"]}')
        (place / "revoked").write_text(self.public["ada"])
        make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(place / "pem.key")]
        subprocess.run(make, check=True)
        public = ["-pubout", "-out", str(place / "pem.pem")]
        subprocess.run(["openssl", "pkey", "-in", place / "pem.key", *public], check=True)
        self.trust = trusted_keys.load([place / "signers", place / "pem.pem"], [])
        self.image, self.other = self.ext3("one"), self.ext3("two")
        self.sif, self.other_sif = (self.wrapped(each) for each in (self.image, self.other))
        self.content = {path: path.read_bytes() for path in (self.image, self.sif)}
        self.beside = place / "beside.sig"
        self.sign(self.image, self.beside)
        self.sign(self.other, place / "other.sig")

    def ext3(self, name: str) -> Path:
        tree = self.place / f"{name}.tree"
        tree.mkdir()
        (with_manifest(tree) / "name").write_text(name)
        path = seal(tree, self.place / f"{name}.img", epoch=2**30).path
        self.sign(path, None)
        return path

    def sign(self, path: Path, beside: Path | None) -> None:
        key = self.place / "ada"
        signing.sign(path, lambda it: signing.by_key(it, key, agent=False), DATE, beside=beside)

    def wrapped(self, image: Path) -> Path:
        part = sif_files.partition(image.read_bytes(), sif_files.EXT3)
        labels = sif_files.Object(sif_files.LABELS, b"{}", name=b"labels.json")
        path = sif_files.written(image.with_suffix(".sif"), [labels, part])
        with opened(path, write=True) as file:
            sif_signatures.sign(file, self.place / "pem.key", scheme="dsse")
        return path

    def accepted(self, path: Path, who: TrustedKeys, beside: Path | None = None) -> bool:
        return not report.examine(path, who, beside=beside, signed=True).error(path)

    def tried(
        self, path: Path, data: bytes | None, who: TrustedKeys, beside: Path | None = None
    ) -> str:
        """What becomes of an image with these bytes instead of its own, or cut to their length."""
        whole = self.content[path]
        data = whole if data is None else data
        changed = [
            at for at in range(0, len(whole), 4096) if data[at : at + 4096] != whole[at : at + 4096]
        ]
        with path.open("r+b") as file:
            for at in changed:
                file.seek(at)
                file.write(data[at : at + 4096])
            file.truncate(len(data))
        try:
            return "accepted" if self.accepted(path, who, beside) else "not accepted"
        except SingbuildError as error:
            return f"refused with status {error.status}"
        finally:
            with path.open("r+b") as file:
                for at in changed:
                    file.seek(at)
                    file.write(whole[at : at + 4096])
                file.truncate(len(whole))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("signed"))


def flipped(data: bytes, at: int, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def every_byte(desk: Desk, chance: random.Random) -> Iterator[tuple[str, str, int]]:
    """Flip a bit in each byte of the boot block, of a SIF's header, table and signature."""
    whole, sif = desk.content[desk.image], desk.content[desk.sif]
    for at in range(1024):
        yield "boot block", desk.tried(desk.image, flipped(whole, at, chance), desk.trust), at
    places = [
        *range(HEADER),
        *range(TABLE, TABLE + 3 * ROW),
        *range(sif.rindex(b'{"payloadType'), len(sif)),
    ]
    for at in places:
        yield "SIF", desk.tried(desk.sif, flipped(sif, at, chance), desk.trust), at


def others(desk: Desk, chance: random.Random) -> Iterator[tuple[str, str, int]]:
    """Sound images with signers who may not sign, and signatures of other images."""
    place, whole = desk.place, desk.content[desk.image]
    boot = desk.other.read_bytes()[:1024]
    swapped = whole[: whole.index(b"# file")] + boot[boot.index(b"# file") :] + whole[1024:]
    yield "another's signature", desk.tried(desk.image, swapped, desk.trust), 0
    yield "another's boot block", desk.tried(desk.image, boot + whole[1024:], desk.trust), 0
    bare = statement.unsigned(whole[:1024]) + whole[1024:]
    beside = desk.place / "other.sig"
    assert beside.exists()
    yield "another's file beside", desk.tried(desk.image, bare, desk.trust, beside), 0
    for name in ("expired", "git"):
        who = trusted_keys.load([place / name], [])
        yield name, desk.tried(desk.image, None, who), 0
        yield name, desk.tried(desk.image, None, who, desk.beside), 0
    yield (
        "revoked",
        desk.tried(desk.image, None, trusted_keys.load([place / "signers"], [place / "revoked"])),
        0,
    )
    (signed,) = statement.in_boot_block(whole[:1024])
    (place / "text").write_text(signed.statement.text())
    words = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(place / "ada")]
    subprocess.run([*words, place / "text"], check=True)
    armor = (place / "text.sig").read_text()
    (place / "namespace.sig").write_text(signed.statement.text() + armor)
    yield "namespace", desk.tried(desk.image, None, desk.trust, place / "namespace.sig"), 0
    blob = "".join(armor.split("\n")[1:-2])
    value = sshsig._strings(sshsig._decoded(blob)[10:], 5)[4]
    line = statement.boot_lines(
        [Signed(signed.statement, sshsig.Signature(signed.signature.key, value))]
    )
    data = (whole[: whole.index(b"# file")] + line).ljust(1024, b"\0") + whole[1024:]
    yield "namespace", desk.tried(desk.image, data, desk.trust), 0
    sif, tail = desk.content[desk.sif], desk.other_sif.read_bytes()
    start = sif.rindex(b'{"payloadType'), tail.rindex(b'{"payloadType')
    data = sif[: start[0]] + tail[start[1] :]
    yield "another SIF's signature", desk.tried(desk.sif, data, desk.trust), 0


def by_chance(desk: Desk, chance: random.Random) -> tuple[str, str, int]:
    """Cut an image short, or change a few bytes of its boot block, its signatures, its table."""
    kind = chance.choice(("cut", "boot block", "beside", "SIF"))
    path = desk.sif if kind == "SIF" else desk.image
    whole = desk.content[path]
    if kind == "cut":
        path = chance.choice((desk.image, desk.sif))
        length = chance.randrange(len(desk.content[path]))
        return kind, desk.tried(path, desk.content[path][:length], desk.trust), 0
    if kind == "beside":
        text = campaign.mutated(
            desk.beside.read_bytes(), chance, (b"-----BEGIN SSH SIGNATURE-----",)
        )
        other = desk.place / "mutated.sig"
        other.write_bytes(text)
        # The image's own signature is left out: this one has to be what counts.
        bare = statement.unsigned(whole[:1024]) + whole[1024:]
        if text == desk.beside.read_bytes():
            return kind, "the same", 0
        return kind, desk.tried(path, bare, desk.trust, other), 0
    size = 1024 if kind == "boot block" else TABLE + 3 * ROW
    head = campaign.mutated(whole[:size], chance, (b"# signature ", b"sha256:")).ljust(size, b"\0")[
        :size
    ]
    if head == whole[:size]:
        return kind, "the same", 0
    changed = [at for at in range(size) if head[at] != whole[at]]
    if kind == "SIF":
        # Between header and table, and of the header what tells sizes and dates, nothing is signed.
        signed = [at for at in changed if not (is_unsigned(at) or HEADER <= at < TABLE)]
        changed = signed or [MACHINE]
    first = changed[0]
    return kind, desk.tried(path, head + whole[size:], desk.trust), first


def test_no_changed_image_is_accepted(desk: Desk) -> None:
    assert desk.accepted(desk.image, desk.trust)
    assert desk.accepted(desk.sif, desk.trust)
    assert desk.tried(desk.image, None, desk.trust, desk.beside) == "accepted"
    seed = os.environ.get("SINGBUILD_TEST_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print("seed", seed)
    chance = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    for source in (others, every_byte):
        for kind, outcome, at in source(desk, chance):
            outcomes[kind, outcome] += 1
            check(kind, outcome, at)
    while outcomes.total() < int(os.environ.get("SINGBUILD_TEST_INPUTS", INPUTS)):
        kind, outcome, at = by_chance(desk, chance)
        outcomes[kind, outcome] += 1
        check(kind, outcome, at)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{count:6,} {kind}: {outcome}")


def check(kind: str, outcome: str, at: int) -> None:
    """Refuse what was accepted, but for bytes of a SIF that its signatures leave out."""
    assert outcome != "accepted" or (kind == "SIF" and is_unsigned(at)), (kind, at)
