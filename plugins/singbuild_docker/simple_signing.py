"""GPG's signatures of images, "simple signing": where they lie, and whose they are.

containers-signature(5) says what is signed, containers-registries.d(5) where it lies: outside of
registries, at NAME@sha256=DIGITS/signature-1 and so on below a directory or a web server.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild import Reporter, SourceError, command
from singbuild.download import NotFoundError, fetch
from singbuild_docker.reference import Reference
from singbuild_docker.settings import matching_files

SYSTEM = Path("/etc/containers/registries.d")
_TYPE = "atomic container signature"
_LARGEST = 4 << 20  # bytes of a signature, as containers/image has it
_MOST = 64  # signatures that are looked at
_KEYS = ("lookaside", "sigstore")  # the second is the older name
# What speaks against a signature, whatever else gpg says: GnuPG, doc/DETAILS.
_AGAINST = {"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NO_PUBKEY", "DECRYPTION_OKAY"}

Table = Mapping[str, Any]


def signatures(image: Reference, digest: str, into: Path, report: Reporter) -> list[bytes]:
    """Bring the signatures of a manifest, none if there are none. Raises SourceError."""
    base = _lookaside(image)
    rows: list[bytes] = []
    # They have no list: signature-protocols.md of github.com/containers/image says to count from 1
    # until there is none.
    for number in range(1, _MOST + 1):
        url = f"{base}/{image.repository}@{digest.replace(':', '=')}/signature-{number}"
        try:
            rows.append(fetch(url, into, report=report, size_limit=_LARGEST).read())
        except NotFoundError:
            break
    return rows


def identity(signature: bytes, digest: str, keys: Sequence[bytes]) -> str | None:
    """Return the name of the image that was signed; None unless one of the keys signed this digest.

    keys: files of public keys, as gpg exports them. HostError: there is no gpg.
    """
    with tempfile.TemporaryDirectory(prefix="singbuild-gpg-") as place:
        home = Path(place)
        env = command.environment({"GNUPGHOME": str(home)})
        gpg = ["gpg", "--batch", "--no-tty", "--no-autostart", "--no-auto-key-retrieve"]
        for number, each in enumerate(keys):
            (home / f"key-{number}").write_bytes(each)
            command.call([*gpg, "--import", home / f"key-{number}"], env=env, package="gpg")
        (home / "signed").write_bytes(signature)
        words: list[str | Path] = [*gpg, "--weak-digest", "SHA1", "--max-output", str(_LARGEST)]
        words += ["--status-file", home / "status", "--output", home / "text"]
        done = command.call([*words, "--decrypt", home / "signed"], env=env, package="gpg")
        if done.status or not (home / "text").exists():
            return None
        rows = (home / "status").read_text(errors="replace").splitlines()
        text = (home / "text").read_bytes()
    words_of_gpg = [row.split()[1] for row in rows if len(row.split()) > 1]
    is_good = (
        words_of_gpg.count("GOODSIG")
        == words_of_gpg.count("VALIDSIG")
        == words_of_gpg.count("NEWSIG")
        == 1
    )
    return _name(text, digest) if is_good and not _AGAINST & {*words_of_gpg} else None


def _name(text: bytes, digest: str) -> str | None:
    try:
        critical = json.loads(text)["critical"]
        same = critical["image"]["docker-manifest-digest"] == digest
        kind, name = critical["type"], critical["identity"]["docker-reference"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(name) if same and kind == _TYPE else None


def _lookaside(image: Reference) -> str:
    """Return the URL below which the signatures of an image lie. Raises SourceError."""
    own = Path.home() / ".config/containers/registries.d"
    directory = own if own.is_dir() else SYSTEM
    default: Table = {}
    scopes: dict[str, Table] = {}
    for path in matching_files(directory, "*.yaml"):
        table = _read(path)
        default = _table(table, "default-docker", path) or default
        scopes |= {
            key: _table(each, "", path) for key, each in _table(table, "docker", path).items()
        }
    name = f"{image.registry}/{image.repository}"
    parts = name.split("/")
    names = [f"{name}:{image.tag}", *("/".join(parts[:n]) for n in range(len(parts), 0, -1))]
    for table in (*(scopes[each] for each in names if each in scopes), default):
        for key in _KEYS:
            if isinstance(table.get(key), str):
                return str(table[key]).rstrip("/")
    if os.geteuid() == 0:
        return "file:///var/lib/containers/sigstore"
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return f"file://{data}/containers/sigstore"


def _read(path: Path) -> Table:
    import yaml  # few hosts have such a file

    try:
        return _table(yaml.safe_load(path.read_bytes()) or {}, "", path)
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise _broken(path, f"{error}.") from error


def _table(value: Any, key: str, path: Path) -> dict[str, Any]:
    table = value.get(key, {}) if key else value
    if not isinstance(table, dict):
        raise _broken(path, f"{key or 'What stands there'} is no table.")
    return table


def _broken(path: Path, why: str) -> SourceError:
    remedy = "See containers-registries.d(5)."
    return SourceError(f"{path} is no configuration of signatures", why=why, remedy=remedy)
