"""Damaged and forged signatures: none is taken with another text than the one that was signed."""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from singbuild_debootstrap.signature import detached_text, inline_text
from singbuild_yum.layout import Layout
from singbuild_yum.signatures import check_signatures

from singbuild import SourceError
from tests.bench import campaign, rpm_repository, signed_archive
from tests.bench.signed_archive import Signer, release

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
EVIL = release(Codename="evil")
BEGIN, MIDDLE, END = (
    b"-----BEGIN PGP SIGNED MESSAGE-----",
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----END PGP SIGNATURE-----",
)
ENDS = (
    b"\n",
    b"\r",
    b"\r\n",
    b"\v",
    b"\f",
    b"\x1c",
    b"\x85",
    "\u2028".encode(),
    b" \n",
    b"\0",
    b"",
)
PER_CALL = 25  # packages that rpmkeys looks at in one go


@dataclass(frozen=True)
class Signed:
    """One text, signed by the right key in both ways, and by another."""

    text: bytes
    inline: bytes
    detached: bytes
    strange: bytes
    ring: Path


@pytest.fixture(scope="module")
def signed() -> Iterator[Signed]:
    if not signed_archive.have_programs():
        pytest.skip("needs gpg, gpgv and faketime")
    home = Path(tempfile.mkdtemp(prefix="keys-"))
    signer = Signer(home)
    try:
        ring = signer.key("site")
        signer.key("stranger")
        text = release()
        yield Signed(
            text,
            signer.sign(text, "site"),
            signer.sign(text, "site", how="--detach-sign"),
            signer.sign(EVIL, "stranger"),
            ring,
        )
    finally:
        signer.close()
        shutil.rmtree(home)


def forged(signed: Signed, chance: random.Random) -> bytes:
    """The genuine file with another text in, before, behind or around it."""
    block = b"".join((BEGIN, b"\nHash: SHA256\n\n", EVIL, MIDDLE, b"\n\nx\n", END, b"\n"))
    other = chance.choice((block, signed.strange, EVIL, BEGIN + b"\n\n" + EVIL))
    other = other.replace(b"\n", chance.choice(ENDS))
    genuine = signed.inline.replace(b"\n", chance.choice(ENDS), chance.choice((0, 0, 1, 2, 99)))
    join = chance.choice(ENDS)
    at = chance.choice(
        (0, len(genuine), genuine.find(MIDDLE), genuine.find(b"\n\n") + chance.randrange(3))
    )
    result = genuine[:at] + join + other + join + genuine[at:]
    return chance.choice((BEGIN + b"\n", b"")) + result + chance.choice((b"", b"\n", END + b"\n"))


def lines(text: bytes) -> list[bytes]:
    """The lines as they are signed, without the blanks at their ends: RFC 9580, section 7.2."""
    return [line.rstrip(b" \t\r") for line in text.rstrip(b"\n").split(b"\n")]


def test_an_inrelease_file_gives_the_signed_text_or_nothing(signed: Signed) -> None:
    tokens = (BEGIN, MIDDLE, END, EVIL, *ENDS, b"- ", b"Hash: SHA1\n", b"Codename: evil\n")

    def check(chance: random.Random) -> str:
        result = signed.inline if chance.randrange(2) else forged(signed, chance)
        result = campaign.mutated(result, chance, tokens)
        text = inline_text(result, "url", signed.ring, old_keys=True)
        assert lines(text) == lines(signed.text)
        return "taken, the signed text"

    campaign.run("InRelease", check)


def test_a_detached_signature_covers_every_byte(signed: Signed) -> None:
    def check(chance: random.Random) -> str:
        text, signature = signed.text, signed.detached
        if chance.randrange(2):
            text = campaign.mutated(text, chance, (b"Codename: evil\n", *ENDS))
        if not chance.randrange(3) or text == signed.text:
            signature = campaign.mutated(signature, chance, (BEGIN, MIDDLE, END))
        actual = detached_text(text, signature, "url", signed.ring, old_keys=True)
        assert actual == signed.text
        return "taken, the signed text"

    campaign.run("Release.gpg", check)


@dataclass(frozen=True)
class Rpm:
    """A signed package, and where its signed part begins."""

    content: bytes
    keys: list[Path]

    @property
    def start(self) -> int:
        """Behind lead and signature header: rpm's docs/manual/format_lead, format_header."""
        index: int
        store: int
        index, store = struct.unpack_from(">II", self.content, 96 + 8)
        return 96 + 16 + 16 * index + store + -store % 8


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    if not rpm_repository.have_programs():
        pytest.skip("needs rpm's tools")
    base = tmp_path_factory.mktemp("rpm")
    maker = rpm_repository.Maker(base)
    file = maker.rpm("setup", rpm_repository.SPECS["setup"])
    key = maker.key("site")
    maker.sign([file], "site")
    return Rpm(file.read_bytes(), [key])


def test_a_damaged_package_is_refused_or_the_signed_one(rpm: Rpm, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "work")
    layout.write([], {"gpgcheck": True, "excludes": []}, {}, [key.read_bytes() for key in rpm.keys])
    place = layout.where / "repositories/base"
    place.mkdir(parents=True)

    def check(chance: random.Random) -> Counter[str]:
        """Several in one go: whichever is not named as bad must be the signed one."""
        pins, contents = {}, {}
        for number in range(PER_CALL):
            name = f"p{number}.rpm"
            contents[name] = campaign.mutated(rpm.content, chance)
            (place / name).write_bytes(contents[name])
            pins[name] = {"repository": "base", "file": name}
        try:
            check_signatures(layout, pins)
        except SourceError as error:
            why = error.why
        else:
            why = ""
        used_bytes = [name for name in pins if f"{name}: " not in why]
        if any(contents[name][rpm.start :] != rpm.content[rpm.start :] for name in used_bytes):
            assert why
            assert not [name for name in used_bytes if accepted_alone(layout, pins, name)]
        return Counter({"taken, as signed": len(used_bytes), "refused": PER_CALL - len(used_bytes)})

    campaign.run("packages", check, batch=PER_CALL)


def accepted_alone(layout: Layout, pins: dict[str, dict[str, str]], name: str) -> bool:
    try:
        check_signatures(layout, {name: pins[name]})
    except SourceError:
        return False
    return True
