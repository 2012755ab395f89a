"""attest-rebuild, killed at any moment: the image is as it was, or wholly signed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from singbuild.ext3.boot import BOOT_BLOCK
from singbuild.signatures import report, trusted_keys
from tests.bench.builds import SINGBUILD
from tests.bench.host import random_numbers, wait_until

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(0)]
KILLS = int(os.environ.get("SINGBUILD_TEST_INPUTS", "60"))
SIGNERS = 6  # one more than find room in the boot block
Rows = Counter[tuple[str, str]]


class Desk:
    """An image that six people have signed, and what executes as any of them."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.image = place, place / "images" / name
        self.environment = os.environ | {
            "HOME": str(place),
            "SINGBUILD_TMPDIR": str(place / "scratch"),
            "SINGBUILD_CACHEDIR": str(place / "cache"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        for each in ("images", "scratch"):
            (place / each).mkdir()
        (place / "r.def").write_text("Bootstrap: busybox\n%post\n    echo 1 > /one\n")
        self.run("build", place / "r.def", self.image)
        for number in range(SIGNERS + 1):
            words: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*words, place / f"k{number}"], check=True)
        rows = (f"k{n}@lab {(place / f'k{n}.pub').read_text()}" for n in range(SIGNERS + 1))
        (place / "signers").write_text("".join(rows))
        for number in range(SIGNERS):
            self.run("sign", "--key", place / f"k{number}", self.image)
        self.content = self.digest()

    def begin(self, *words: object) -> subprocess.Popen[bytes]:
        output = (self.place / "said").open("wb")
        argv = [*SINGBUILD, *map(str, words)]
        return subprocess.Popen(argv, env=self.environment, stdout=output, stderr=output)

    def attest(self, number: int) -> subprocess.Popen[bytes]:
        return self.begin("attest-rebuild", "--key", self.place / f"k{number}", self.image)

    def run(self, *words: object) -> None:
        assert self.begin(*words).wait() == 0, (words, (self.place / "said").read_text())

    def digest(self) -> str:
        """Of what nobody may change: all but a boot block of ours."""
        data = self.image.read_bytes()
        return hashlib.sha256(data[BOOT_BLOCK * (self.image.suffix == ".img") :]).hexdigest()

    def signatures(self) -> Rows:
        """Who signed what, all of which has to be good."""
        result = report.examine(self.image, trusted_keys.load((self.place / "signers",), ()))
        assert {each.status for each in result.findings} == {"good"}, result.findings
        return Counter((each.principals[0], each.claim) for each in result.findings)

    def is_clean(self) -> bool:
        leftovers = {path.name for path in (self.place / "scratch").iterdir()}
        names = {self.image.name, f"{self.image.name}.sig"}
        return not leftovers | ({path.name for path in (self.place / "images").iterdir()} - names)


@pytest.mark.parametrize("name", ["i.img", "i.sqfs", "i.sif"])
def test_an_image_is_as_it_was_or_wholly_signed(tmp_path: Path, name: str) -> None:
    chance = random_numbers()
    desk = Desk(tmp_path, name)
    began = time.monotonic()
    assert desk.attest(0).wait() == 0
    seconds = time.monotonic() - began
    expected = Counter({(f"k{n}@lab", "signed"): 1 for n in range(SIGNERS)})
    expected["k0@lab", "rebuilt"] = 1
    assert desk.signatures() == expected
    outcomes: Counter[str] = Counter()
    for number in range(KILLS):
        signer = number % (SIGNERS + 1)
        process = desk.attest(signer)
        # Half of them where the signature is written.
        time.sleep(chance.uniform(0.05 if number % 2 else 0.8, 1.5) * seconds)
        process.kill()
        status = process.wait()
        assert status in (0, -signal.SIGKILL), (tmp_path / "said").read_text()
        killed = status != 0
        now = desk.signatures()
        signed = expected | Counter({(f"k{signer}@lab", "rebuilt"): 1})
        assert now in (expected, signed), number
        assert killed or now == signed, number
        assert desk.digest() == desk.content, number
        outcomes["killed" if killed else "done"] += 1
        outcomes["signed anew"] += now != expected
        expected = now
    print(f"{name}: {seconds:.1f} s each, {dict(outcomes)}")
    for signer in range(SIGNERS + 1):
        assert desk.attest(signer).wait() == 0, (tmp_path / "said").read_text()
    assert len(desk.signatures()) == 2 * SIGNERS + 1
    assert desk.digest() == desk.content
    wait_until(desk.is_clean)
