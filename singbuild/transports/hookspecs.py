"""The hooks of a transport: how images come from a place, and go to it.

A transport is a module (or object) named by an entry point of the group ``singbuild.transport``;
the entry point's name is the scheme of the URIs that it takes. Only the transport that a URI
names is imported. Hooks are marked with ``singbuild.hookimpl``, and may take fewer arguments than
are listed here. The contract (version 1) grows by addition.

A name is handed over as a ``Source``: ``bootstrap`` is the scheme, ``keywords["From"]`` the rest of
the URI. So one module may be a backend, too, and ``Bootstrap: SCHEME`` takes the same names.

Errors: raise one of ``singbuild.errors``. Anything else is reported as a bug of the plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from singbuild.contract import RemoteSignature, Reporter, Source, Transport
    from singbuild.download import Fetched

hookspec = pluggy.HookspecMarker("singbuild")


@hookspec(firstresult=True)
def singbuild_transport() -> Transport:
    """Say what this transport is, as data.

    When: first, and for ``singbuild transports``.
    Assume: nothing.
    Return: ``Transport``.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_get(source: Source) -> Fetched:
    """Bring the file of an image.

    When: ``singbuild pull``. Optional: where images are layers, a backend builds them.
    Assume: ``source.cache`` is a directory of the transport's own that can be written.
    Return: the whole file, in ``source.cache`` by its digest. Whatever the place told of it
    (digest, size) has been checked; the engine finds out its format.
    Raise: ``SourceError``, ``RecipeKeyError`` for a name that makes no sense.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_digest(source: Source) -> str:
    """Tell what is under a name now, without bringing it.

    When: before stages of builds are brought or sent (``--cache-from``, ``--cache-to``). Optional.
    Assume: as for ``singbuild_get``.
    Return: the digest by which the place knows it, as sha256:DIGITS, "" for nothing.
    Raise: ``SourceError`` when the place cannot be asked.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_put(
    image: Path, kind: str, source: Source, annotations: Mapping[str, str], title: str
) -> str:
    """Send an image to a place.

    When: ``singbuild push``. Optional.
    Assume: ``image`` is a file of the format ``kind``; where ``Transport.layers`` is set it is a
    directory, an OCI layout of one image. title: the file's name.
    Return: the digest by which the place knows it now, as sha256:DIGITS.
    Raise: ``SourceError``.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_attach(source: Source, digest: str, kind: str, content: bytes) -> str:
    """Send a document about an image that is there, such as its bill of materials.

    When: after ``singbuild_put``. Optional.
    Assume: ``digest`` is what that returned. kind: the document's media type.
    Return: the document's digest there.
    Raise: ``SourceError``.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_signer(source: Source, key: Path) -> Callable[[str, Mapping[str, Any]], str]:
    """Prepare to sign an image, so that those who bring it from there can check it.

    When: before ``singbuild_put``, for ``singbuild push --sign-key``. Optional.
    Assume: key: the file of a private key in PEM, which may be encrypted.
    Return: what signs the digest that ``singbuild_put`` returned, and statements about it
    (predicates of in-toto, as values of JSON, by their types), and returns the signature's digest.
    Raise: ``SourceError``, ``HostError`` for a key that cannot be used.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_signatures(source: Source) -> tuple[str, Sequence[RemoteSignature]]:
    """Bring the signatures of an image that is there, and of statements about it.

    When: ``singbuild verify URI``. Optional.
    Return: the digest by which the place knows the image, as sha256:DIGITS, and what lies beside
    it, a reasonable number. What cannot be read as a signature is left out.
    Raise: ``SourceError``.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_login(server: str, username: str, password: str, report: Reporter) -> str:
    """Try a name and a password, and keep them.

    When: ``singbuild login``. Optional.
    Assume: ``server`` is what the user typed, with or without a scheme.
    Return: where they are kept.
    Raise: ``SourceError`` when the place does not take them, ``HostError``.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_logins(report: Reporter) -> Mapping[str, bool]:
    """Tell where the user has a password.

    When: ``registry list`` of singularity and apptainer. Optional.
    Assume: nothing.
    Return: by server, whether it is asked by TLS alone.
    Raise: nothing; what cannot be read is warned of.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_logout(server: str) -> str:
    """Forget a name and a password.

    When: ``singbuild logout``. Optional.
    Assume: as for ``singbuild_login``.
    Return: where they were, "" if nobody knew them.
    Raise: ``HostError``.
    Since: 1.
    """
    raise NotImplementedError
