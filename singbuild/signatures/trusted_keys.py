"""The keys that are trusted: lists of SSH signers, PGP keyrings, public keys in PEM files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from singbuild.errors import ImageError
from singbuild.signatures import dsse, pgp
from singbuild.signatures.dsse import PublicKey
from singrun.signatures import signers
from singrun.signatures.signers import Signers

_KEYS = "keys"  # the directory of PEM files beside a list of signers


@dataclass(frozen=True)
class TrustedKeys:
    """ssh: lists; keyrings: files of PGP keys, None for the user's keyring; keys: with owners."""

    ssh: Signers
    keyrings: Sequence[Path] | None
    keys: Sequence[tuple[str, PublicKey]]


def load(files: Sequence[Path], revoked: Sequence[Path]) -> TrustedKeys:
    """Return the keys in the named files, else those in the site's and the user's.

    Each file is a list of SSH signers, PGP keys in armor, or a public key in PEM, whose owner is
    called as the file is. The site's and the user's revoked keys count always. Raises ImageError
    for a file that is not readable.
    """
    own = platformdirs.user_config_path("singbuild")
    site = Path(signers.ALLOWED).parent
    bans = [site / "revoked_keys", own / "revoked_keys"]
    bans = [*revoked, *(path for path in bans if os.path.exists(path))]  # noqa: PTH110 - of a home
    lists, rings, pems = list[Path](), list[Path](), list[Path]()
    for path in files or _defaults(site, own):
        start = _start(path)
        kind = rings if start == pgp.KEY_START else pems if start == dsse.KEY_START else lists
        kind.append(path)
    for path in bans:
        _start(path)
    ssh = Signers([*map(str, lists)], [*map(str, bans)])
    keys = [(path.stem, dsse.public_key(path)) for path in pems]
    return TrustedKeys(ssh, rings if files else None, keys)


def own_list() -> Path:
    """Return the user's list of signers."""
    return platformdirs.user_config_path("singbuild") / "allowed_signers"


def _defaults(site: Path, own: Path) -> list[Path]:
    lists = (
        site / "allowed_signers",
        own / "allowed_signers",
        Path.home() / ".ssh/allowed_signers",
    )
    pems: list[Path] = []
    for each in (site, own):
        with contextlib.suppress(OSError):
            pems += sorted((each / _KEYS).glob("*.pem"))
    # Not Path.is_file(), which raises PermissionError: root may be kept out of a user's home.
    return [path for path in (*lists, *pems) if os.path.isfile(path)]  # noqa: PTH113


def _start(path: Path) -> bytes:
    """Return a file's first line. Raises ImageError."""
    try:
        # A FIFO in its place keeps nobody waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"cannot read the list of signers {path}", why="It is a FIFO.")
            return file.readline(1 << 10).strip()
    except OSError as error:
        raise ImageError(
            f"cannot read the list of signers {path}", why=f"{os.strerror(error.errno or 0)}."
        ) from error
