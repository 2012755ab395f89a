"""Finds the place that a recipe's header names, and pins the image that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from singbuild import Pins, RecipeKeyError, Source
from singbuild.download import stored
from singbuild_docker import config as configuration
from singbuild_docker import manifest, trust
from singbuild_docker.archive import DockerArchive, OciLayout, split_path
from singbuild_docker.image import Image, Origin, Store
from singbuild_docker.manifest import Layer
from singbuild_docker.reference import DIGEST, Reference, is_insecure, named
from singbuild_docker.registry import Registry

_VARIABLE = re.compile(r"\$\{?\w+\}?|\{\{.*?\}\}")


def locate(source: Source) -> Origin:
    """Return the place of an image. Raises RecipeKeyError for a name that makes no sense."""
    store = Store(source.cache, source.report)
    if source.bootstrap == "docker":
        image = named(source.keywords)
        pin = pinned_digest(source, image)
        return Registry(image, store, insecure=is_insecure(source.keywords), pinned=pin)
    if source.bootstrap == "docker-daemon":
        trust.check_file(source.bootstrap, "")
        # 0.2 s to import, and only this place of images needs it.
        from singbuild_docker.engine import Engine

        return Engine(source.keywords["From"].strip(), store)
    path, tag = split_path(source.keywords["From"])
    trust.check_file(source.bootstrap, str(path))
    kind = DockerArchive if source.bootstrap == "docker-archive" else OciLayout
    return kind(path, tag, store)


def check(source: Source) -> None:
    """Refuse a name of a registry's image that makes no sense, or asks for a variable's value."""
    text = source.keywords["From"]
    if variable := _VARIABLE.search(text):
        raise RecipeKeyError(
            "From",
            f"From: {text}: {variable[0]} is not filled in",
            why="A header knows no variables of the shell.",
            remedy="Write the value; or {{ NAME }}, and NAME=DEFAULT in a section %arguments.",
        )
    if source.bootstrap == "docker":
        named(source.keywords)


def pinned(image: Image, arch: str) -> Pins:
    """Return what names an image exactly."""
    pins: dict[str, Any] = {
        "image": image.name,
        "digest": image.digest,
        "platform": f"linux/{manifest.platform(arch)[0]}",
        "config": image.config_digest,
        "layers": [
            {
                "digest": layer.digest,
                "size": layer.size,
                "packing": layer.packing,
                "diff_id": layer.diff_id,
            }
            for layer in image.layers
        ],
    }
    epoch = configuration.created(image.config)
    return pins if epoch is None else pins | {"epoch": epoch}


def layers_of(pins: Pins) -> list[Layer]:
    """Return the layers that were pinned."""
    return [Layer(**layer) for layer in pins["layers"]]


def config_of(pins: Pins, source: Source) -> Mapping[str, Any]:
    """Return the configuration that was pinned, from the store."""
    sha256 = pins["config"].removeprefix("sha256:")
    return manifest.document(stored(source.cache, sha256, manifest.LARGEST_CONFIG), pins["image"])


def pinned_digest(source: Source, image: Reference) -> str:
    """Return the digest that a lock names for an image, "" if it names none."""
    digest = str(source.locked.get("digest"))
    same = source.locked.get("image") == str(image)
    return digest if same and DIGEST.fullmatch(digest) else ""
