"""Which images may be taken: containers-policy.json(5), obeyed as podman obeys it.

All requirements of the most specific scope have to be met. What cannot be checked here (Fulcio,
Rekor) is not met. Without such a file everything is taken.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singbuild import SourceError
from singbuild_docker import simple_signing
from singbuild_docker.cosign import Signature
from singbuild_docker.reference import Reference
from singbuild_docker.settings import readable

if TYPE_CHECKING:
    from singbuild_docker.keys import PublicKey

SYSTEM = Path("/etc/containers/policy.json")
_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_KNOWN_KEYS = {"type", "signedIdentity", *_KEYS}
_GPG_KEYS = ("keyPath", "keyPaths", "keyData")
_GPG_KNOWN = {"type", "keyType", "signedIdentity", *_GPG_KEYS}
Table = Mapping[str, Any]
Fetch = Callable[[str], Sequence[Signature]]
FetchSimple = Callable[[str], Sequence[bytes]]


@dataclass(frozen=True)
class Subject:
    """What a policy is asked about.

    digests: of the manifest, and of the index that led to it; cosign, simple: return the signatures
    of one, of either kind.
    """

    image: Reference
    digests: Sequence[str]
    cosign: Fetch
    simple: FetchSimple


def check(subject: Subject) -> None:
    """Refuse an image of a registry that the host's policy does not let in. Raises SourceError."""
    image = subject.image
    path = _path()
    if not path:
        return
    scope, requirements = _chosen(_read(path), "docker", _scopes(image), path)
    for each in requirements:
        if why := _unmet(each, subject, path):
            raise _refused(str(image), why, path, scope)


def check_file(transport: str, name: str) -> None:
    """Refuse an archive, a layout or an engine's image likewise. name: its path, or ""."""
    path = _path()
    if not path:
        return
    place = Path(name).absolute() if name else None
    scopes = [str(each) for each in (place, *place.parents)] if place else []
    scope, requirements = _chosen(_read(path), transport, [*scopes, ""], path)
    for each in requirements:
        if each.get("type") != "insecureAcceptAnything":
            why = f"It asks for {each.get('type')}, and a file or an engine's image has none."
            raise _refused(f"{transport}:{name}", why, path, scope)


def _path() -> Path | None:
    """Return the user's policy, or the host's: the first that is there."""
    own = Path.home() / ".config/containers/policy.json"
    # In a home that its user may not enter, as sudo can leave it, nothing is there.
    is_own_there = os.access(own.parent, os.X_OK) and own.exists()
    path = own if is_own_there else SYSTEM
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise _broken(path, f"{error.strerror}.") from error
    if not readable([path]):
        raise _broken(path, "It cannot be read.")
    return path


def _read(path: Path) -> Table:
    try:
        policy = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, f"{error}.") from error
    if not isinstance(policy, dict) or not isinstance(policy.get("default"), list):
        raise _broken(path, "It has no default.")
    return policy


def _scopes(image: Reference) -> Iterator[str]:
    """Yield the scopes of a name, the most specific first: containers-policy.json(5), "docker:"."""
    repository = f"{image.registry}/{image.repository}"
    yield f"{repository}@{image.digest}" if image.digest else f"{repository}:{image.tag}"
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])
    labels = image.registry.partition(":")[0].split(".")
    for count in range(1, len(labels)):
        yield f"*.{'.'.join(labels[count:])}"
    yield ""


def _chosen(
    policy: Table, transport: str, scopes: Sequence[str] | Iterator[str], path: Path
) -> tuple[str, list[Table]]:
    """Return the scope that counts, and its requirements. Raises SourceError."""
    transports = policy.get("transports", {})
    table = transports.get(transport, {}) if isinstance(transports, dict) else None
    if not isinstance(table, dict):
        raise _broken(path, f"What it says of {transport} is no object.")
    scope = next((scope for scope in scopes if scope in table), None)
    requirements = policy["default"] if scope is None else table[scope]
    name = "default" if scope is None else f"{transport}:{scope}"
    if (
        not isinstance(requirements, list)
        or not requirements
        or not all(isinstance(e, dict) for e in requirements)
    ):
        raise _broken(path, f"Its requirements of {name} are no list of objects.")
    return name, requirements


def _unmet(requirement: Table, subject: Subject, path: Path) -> str:
    """Return why a requirement is not met, "" if it is."""
    kind = requirement.get("type")
    if kind == "insecureAcceptAnything":
        return ""
    if kind == "reject":
        return "It refuses this image."
    if kind not in ("sigstoreSigned", "signedBy"):
        return f"It asks for {kind}, which singbuild cannot check."
    keywords = _GPG_KNOWN if kind == "signedBy" else _KNOWN_KEYS
    if more := sorted({*requirement} - keywords):
        return f"It asks for {', '.join(more)}, which singbuild cannot check."
    names = _names_of_gpg if kind == "signedBy" else _names_of_cosign
    is_signed = False
    for name in names(requirement, subject, path):
        is_signed = True
        if name is not None and _is_meant(name, requirement, subject.image, path):
            return ""
    if not is_signed:
        return "A signature was required, but no signature exists."
    return "No signature of it is by a key that it names, for this name."


def _names_of_cosign(requirement: Table, subject: Subject, path: Path) -> Iterator[str | None]:
    """Yield for each signature the name that it is for, None unless it is by a key of these."""
    keys = _keys(requirement, path)
    for digest in dict.fromkeys(subject.digests):
        for signature in subject.cosign(digest):
            names = [signature.identity(digest, key) for key in keys]
            yield None  # there is one, whoever made it
            yield from names


def _names_of_gpg(requirement: Table, subject: Subject, path: Path) -> Iterator[str | None]:
    """Yield the same of GPG's signatures."""
    if requirement.get("keyType") != "GPGKeys":
        raise _broken(path, "signedBy has to have the keyType GPGKeys.")
    keys = _key_files(requirement, _GPG_KEYS, path)
    for digest in dict.fromkeys(subject.digests):
        for signature in subject.simple(digest):
            yield simple_signing.identity(signature, digest, keys)


def _keys(requirement: Table, path: Path) -> list[PublicKey]:
    from singbuild_docker.keys import public_key

    keys = []
    for data in _key_files(requirement, _KEYS, path):
        key = public_key(data)
        if key is None:
            raise _broken(path, "A key of sigstoreSigned is no public key.")
        keys.append(key)
    return keys


def _key_files(requirement: Table, keywords: Sequence[str], path: Path) -> list[bytes]:
    """Return the contents of the files of keys, or of what stands for them."""
    names = [name for name in keywords if name in requirement]
    if len(names) != 1:
        raise _broken(path, f"{requirement['type']} has to have one of {', '.join(keywords)}.")
    value = requirement[names[0]]
    texts = value if isinstance(value, list) else [value]
    try:
        if "Path" in names[0]:
            return [Path(text).read_bytes() for text in texts]
        return [base64.b64decode(text) for text in texts]
    except (OSError, TypeError, binascii.Error, ValueError) as error:
        raise _broken(path, f"Its key cannot be read: {error}.") from error


def _is_meant(name: str, requirement: Table, image: Reference, path: Path) -> bool:
    """Whether a signature for a name is one for this image: "signedIdentity"."""
    wish = requirement.get("signedIdentity", {"type": "matchRepoDigestOrExact"})
    kind = wish.get("type") if isinstance(wish, dict) else None
    repository = f"{image.registry}/{image.repository}"
    signed, _, _ = name.partition("@")
    bare = signed.rpartition(":")[0] if ":" in signed.rpartition("/")[2] else signed
    if kind == "matchRepository":
        return bare == repository
    if kind in ("matchExact", "matchRepoDigestOrExact"):
        if image.digest:
            return kind == "matchRepoDigestOrExact" and bare == repository
        return signed == f"{repository}:{image.tag}"
    if kind == "exactReference":
        return bool(signed == wish.get("dockerReference"))
    if kind == "exactRepository":
        return bool(bare == wish.get("dockerRepository"))
    raise _broken(path, f"singbuild knows no signedIdentity {kind!r}.")


def _refused(what: str, why: str, path: Path, scope: str) -> SourceError:
    return SourceError(
        f"{what}: this host's policy does not let it in",
        why=f"{why} ({path}, {scope})",
        remedy="Choose another image, or ask who administers this host.",
    )


def _broken(path: Path, why: str) -> SourceError:
    return SourceError(f"{path} is no policy", why=why, remedy="See containers-policy.json(5).")
