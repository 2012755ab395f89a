"""A Debian archive with a Release file of ours, signed by throw-away keys.

Any archive will do to show what is taken and what is refused; Debian's own keys are the
business of test_debootstrap.py.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INDEX = "main/binary-amd64/Packages.xz"
PACKAGES = """\
Package: hello
Version: 1.0
Filename: pool/main/h/hello.deb
Size: 10
SHA256: {}
""".format("0" * 64)


def have_programs() -> bool:
    """Whether keys can be made here, old ones too."""
    return all(map(shutil.which, ("gpg", "gpgconf", "gpgv", "faketime")))


@dataclass(frozen=True)
class Signer:
    """Key pairs below one short directory, whose path gpg's agent can take for a socket."""

    home: Path

    def key(self, name: str, *, created: str = "", valid: str = "never") -> Path:
        """Make a key pair; return a keyring of its public half. created: a date in the past."""
        self.gpg("--quick-gen-key", f"{name}@localhost", "ed25519", "sign", valid, when=created)
        ring = self.home / f"{name}.gpg"
        ring.write_bytes(self.gpg("--export", f"{name}@localhost"))
        return ring

    def sign(self, text: bytes, *names: str, how: str = "--clearsign", when: str = "") -> bytes:
        """Sign a text with one or more keys. how: gpg's options; when: a date in the past."""
        users = [f"--local-user={name}@localhost" for name in names]
        return self.gpg("--armor", *users, *how.split(), text=text, when=when)

    def gpg(self, *words: str, text: bytes = b"", when: str = "") -> bytes:
        """Execute gpg and return what it prints. when: the date that it shall see."""
        argv = ["faketime", when] if when else []
        argv += ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--passphrase="]
        done = subprocess.run([*argv, *words], input=text, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def close(self) -> None:
        """End gpg's agent."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)


def release(**fields: str) -> bytes:
    """Return the text of a Release file. fields: more of them, or others."""
    index = lzma.compress(PACKAGES.encode())
    defaults = {
        "Origin": "Nova",
        "Suite": "nova",
        "Codename": "nova",
        "Date": "Sat, 06 Sep 2025 10:00:00 UTC",
        "Architectures": "amd64",
        "Components": "main",
        "SHA256": f"\n {hashlib.sha256(index).hexdigest()} {len(index)} {INDEX}",
    }
    return "".join(f"{key}: {value}\n" for key, value in (defaults | fields).items()).encode()


def write(place: Path, files: Mapping[str, bytes]) -> str:
    """Write an archive; return its URL. files: of the suite, as InRelease."""
    dists = place / "dists/nova"
    (dists / INDEX).parent.mkdir(parents=True, exist_ok=True)
    (dists / INDEX).write_bytes(lzma.compress(PACKAGES.encode()))
    for name in ("InRelease", "Release", "Release.gpg"):
        (dists / name).unlink(missing_ok=True)
    for name, content in files.items():
        (dists / name).write_bytes(content)
    return place.as_uri()
