"""Container images to registries: docker://HOST/NAME:TAG. They come from there by Bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

from singbuild import Reporter, Source, Transport, hookimpl
from singbuild_docker import login, manifest
from singbuild_docker.oras import singbuild_attach, singbuild_signatures, singbuild_signer
from singbuild_docker.reference import is_insecure, named
from singbuild_docker.upload import Upload, digest_of

# The same, whatever they are about.
__all__ = ["singbuild_attach", "singbuild_signatures", "singbuild_signer"]


@hookimpl
def singbuild_transport() -> Transport:
    """Layers, as an OCI layout has them."""
    return Transport("a container image in a registry: docker://HOST/NAME:TAG", layers=True)


@hookimpl
def singbuild_put(image: Path, source: Source) -> str:
    """Push an OCI layout of one image; return the manifest's digest. Raises SourceError."""
    reference = named(source.keywords)
    upload = Upload(reference, source.report, insecure=is_insecure(source.keywords))
    index = json.loads((image / "index.json").read_bytes())
    (entry,) = index["manifests"]
    blobs = image / "blobs" / "sha256"
    content = (blobs / entry["digest"].removeprefix("sha256:")).read_bytes()
    image_manifest = manifest.document(content, str(reference))
    for each in (*image_manifest["layers"], image_manifest["config"]):
        sha256 = each["digest"].removeprefix("sha256:")
        upload.file(blobs / sha256, sha256, each["size"])
    upload.manifest(content, entry["mediaType"], reference.tag or "latest")
    return digest_of(content)


@hookimpl
def singbuild_login(server: str, username: str, password: str, report: Reporter) -> str:
    """Keep a password where docker finds it, once the registry has taken it; return the file."""
    return login.login(server, username, password, report)


@hookimpl
def singbuild_logins(report: Reporter) -> dict[str, bool]:
    """Return the registries of docker's and Podman's files; False for those of plain http."""
    return login.logins(report)


@hookimpl
def singbuild_logout(server: str) -> str:
    """Forget a password; return the file, "" if none was known."""
    return login.logout(server)
