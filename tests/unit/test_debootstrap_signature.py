"""What of a Release file is used is what gpgv verified, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from singbuild_debootstrap.archive import Archive, open_archive
from singbuild_debootstrap.choice import Choice

from singbuild import SourceError
from tests.bench import signed_archive
from tests.bench.backend_alone import source
from tests.bench.signed_archive import Signer, release

pytestmark = pytest.mark.skipif(
    not signed_archive.have_programs(), reason="needs gpg, gpgv and faketime"
)
BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----\n"
EVIL = b"Suite: nova\nCodename: evil\nComponents: main\nDate: Sat, 06 Sep 2025 10:00:00 UTC\n"


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    home = Path(tempfile.mkdtemp(prefix="keys-"))
    signing = Signer(home)
    try:
        for name in ("site", "stranger"):
            signing.key(name)
        signing.key("old", created="2020-01-01", valid="1y")
        rings = (home / f"{name}.gpg" for name in ("site", "old"))
        (home / "both.gpg").write_bytes(b"".join(ring.read_bytes() for ring in rings))
        yield signing
    finally:
        signing.close()
        shutil.rmtree(home)


class Opener:
    """Opens an archive of the given files, as a recipe with the given keys would."""

    def __init__(self, place: Path, signer: Signer) -> None:
        self.place, self.signer = place, signer

    def __call__(
        self,
        files: Mapping[str, bytes],
        keyring: str = "site",
        *,
        locked: Mapping[str, object] | None = None,
        allow_expired: bool = False,
    ) -> Archive:
        mirror = signed_archive.write(self.place / "archive", files)
        ring = self.signer.home / f"{keyring}.gpg"
        choice = Choice("nova", "amd64", ("main",), "minbase", (), ring, mirror, allow_expired)
        request = source(self.place / "cache")
        return open_archive(choice, replace(request, locked=locked or {}))


@pytest.fixture
def opened(tmp_path: Path, signer: Signer) -> Opener:
    return Opener(tmp_path, signer)


def test_a_signed_text_is_taken(opened: Opener, signer: Signer) -> None:
    archive = opened({"InRelease": signer.sign(release(), "site")})
    assert archive.codename == "nova"
    assert archive.read_indices() == (signed_archive.PACKAGES,)


def test_a_text_that_gpgv_does_not_see_is_not_used(opened: Opener, signer: Signer) -> None:
    genuine = signer.sign(release(), "site")
    block = BEGIN + b"Hash: SHA256\n\n" + EVIL
    block += b"-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
    for end in (b"\r", b"\v", b"\f", b"\x1c", b"\x85", "\u2028".encode()):
        hidden = block.replace(b"\n", end) + b"\n" + genuine.replace(b"-----\n", b"----- \n", 1)
        with pytest.raises(SourceError, match="signature cannot be verified"):
            opened({"InRelease": hidden})
        # Where the first line is gpgv's own, the rest may be ours or nobody's.
        with pytest.raises(SourceError, match="signature cannot be verified"):
            opened({"InRelease": BEGIN + hidden})


@pytest.mark.parametrize("end", [b"\r", b"\x85", "\u2028".encode()])
def test_a_line_of_the_signed_text_ends_where_gpgv_ends_it(
    opened: Opener, signer: Signer, end: bytes
) -> None:
    text = release().replace(b"Origin: Nova", b"Origin: Nova" + end + b"Codename: evil")
    assert opened({"InRelease": signer.sign(text, "site")}).codename == "nova"


def test_a_second_text_is_refused(opened: Opener, signer: Signer) -> None:
    one, other = (signer.sign(text, "site") for text in (release(), release(Codename="other")))
    with pytest.raises(SourceError, match="signature cannot be verified"):
        opened({"InRelease": one + other})


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\n", BEGIN, BEGIN * 2, bytes(600)])
def test_no_text_at_all_is_refused(opened: Opener, content: bytes) -> None:
    with pytest.raises(SourceError, match="signature cannot be verified"):
        opened({"InRelease": content})


def test_a_key_that_this_host_lacks_may_sign_too(opened: Opener, signer: Signer) -> None:
    both = signer.sign(release(), "site", "stranger")
    assert opened({"InRelease": both}).codename == "nova"
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        opened({"InRelease": signer.sign(release(), "stranger")})
    assert f"not in {signer.home}/site.gpg: " in caught.value.why


def test_a_signature_that_does_not_fit_outweighs_a_good_one(opened: Opener, signer: Signer) -> None:
    text, other = release(), release(Origin="Other")
    good, bad = (signer.sign(each, "site", how="--detach-sign") for each in (text, other))
    mixed = signer.gpg("--dearmor", text=good) + signer.gpg("--dearmor", text=bad)
    assert opened({"Release": text, "Release.gpg": good}).codename == "nova"
    for signatures in (bad, mixed):
        with pytest.raises(SourceError, match="signature cannot be verified"):
            opened({"Release": text, "Release.gpg": signatures})


@pytest.mark.parametrize("how", ["--clearsign", "--detach-sign"])
def test_a_signature_over_sha_1_is_refused(opened: Opener, signer: Signer, how: str) -> None:
    signed = signer.sign(release(), "site", how=f"--digest-algo SHA1 {how}")
    detached = {"Release": release(), "Release.gpg": signed}
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        opened({"InRelease": signed} if how == "--clearsign" else detached)
    assert "SHA1" in caught.value.why


def test_a_signature_that_has_expired_is_refused(opened: Opener, signer: Signer) -> None:
    signed = signer.sign(
        release(), "old", how="--default-sig-expire 1d --clearsign", when="2020-02-01"
    )
    with pytest.raises(SourceError, match="signature cannot be verified"):
        opened({"InRelease": signed}, "old", allow_expired=True)


def test_a_key_that_has_expired_counts_where_the_recipe_says_so(
    opened: Opener, signer: Signer
) -> None:
    signed = signer.sign(release(), "old", when="2020-02-01")
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        opened({"InRelease": signed}, "old")
    assert "expired" in caught.value.why
    assert "AllowExpired" in caught.value.remedy
    assert opened({"InRelease": signed}, "old", allow_expired=True).codename == "nova"


def test_an_expired_key_beside_a_good_one_does_no_harm(opened: Opener, signer: Signer) -> None:
    old = signer.sign(release(), "old", how="--detach-sign", when="2020-02-01")
    new = signer.sign(release(), "site", how="--detach-sign")
    joined = signer.gpg("--dearmor", text=old) + signer.gpg("--dearmor", text=new)
    assert opened({"Release": release(), "Release.gpg": joined}, "both").codename == "nova"


def test_a_signature_that_does_not_cover_all_bytes_is_refused(
    opened: Opener, signer: Signer
) -> None:
    signed = signer.sign(release(), "site", how="--textmode --detach-sign")
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        opened({"Release": release(), "Release.gpg": signed})
    assert "of a text" in caught.value.why


def test_a_message_that_unpacks_to_more_than_a_release_file_is_refused(
    opened: Opener, signer: Signer
) -> None:
    bomb = signer.sign(release() + bytes(32 << 20), "stranger", how="--sign")
    assert len(bomb) < 1 << 20
    files = {"InRelease": bomb}, {"Release": release(), "Release.gpg": bomb}
    for each in (*files, {"InRelease": BEGIN + bomb}):
        with pytest.raises(SourceError, match="signature cannot be verified"):
            opened(each)


def test_an_archive_that_is_no_longer_valid_is_refused(opened: Opener, signer: Signer) -> None:
    until = "Sat, 13 Sep 2025 10:00:00 UTC"
    signed = signer.sign(release(**{"Valid-Until": until}), "site")
    with pytest.raises(SourceError, match=f"was valid until {until}") as caught:
        opened({"InRelease": signed})
    assert "AllowExpired" in caught.value.remedy
    archive = opened({"InRelease": signed}, allow_expired=True)
    assert archive.codename == "nova"
    assert opened({"InRelease": signed}, locked={"release": archive.identity}).codename == "nova"
    with pytest.raises(SourceError, match="was valid until"):
        opened({"InRelease": signed}, locked={"release": {**archive.identity, "sha256": "0"}})


@pytest.mark.parametrize(
    "text",
    [b"no field\n", b" begins in the middle\n", b"Suite: nova\nSuite: nova\n", b"\n\n", b":\n"],
)
def test_a_signed_text_that_is_no_release_file_is_refused(
    opened: Opener, signer: Signer, text: bytes
) -> None:
    with pytest.raises(SourceError, match=r"makes no sense|signature"):
        opened({"InRelease": signer.sign(text, "site")})


@pytest.mark.parametrize("date", ["", "x", "Sat, 06 Sep 99999 10:00:00 UTC", "Sat, 06 Sep 0001"])
def test_a_date_that_cannot_be_read_is_refused(opened: Opener, signer: Signer, date: str) -> None:
    with pytest.raises(SourceError, match="Date cannot be read"):
        opened({"InRelease": signer.sign(release(Date=date), "site")})
