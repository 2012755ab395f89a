"""What every place of images gives: an image's description, and its layers' bytes."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from singbuild import Reporter
from singbuild.download import digest, keep
from singbuild_docker.manifest import Layer

Read = Callable[[Layer], Iterator[bytes]]
"""Returns a layer's bytes as they are stored, in pieces; checked by whoever reads them."""


@dataclass(frozen=True)
class Image:
    """One image. name: for people; digest: of its manifest, or of what stands for one;
    config_digest, config: its configuration, which the store has; layers: the lowest first.
    """  # noqa: D205 - fields

    name: str
    digest: str
    config_digest: str
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]


class Origin(Protocol):
    """A place that has one image."""

    def image_for(self, arch: str) -> Image:
        """Return its image for a machine (`uname -m`). Raises SourceError."""

    def opened(self, layers: Sequence[Layer]) -> AbstractContextManager[Read]:
        """Make layers readable for the time of a with-block. Raises SourceError."""


@dataclass(frozen=True)
class Store:
    """The files that builds share: blobs under their SHA-256, and where tags led last."""

    path: Path
    report: Reporter

    def keep(self, content: bytes) -> str:
        """Keep a document; return its digest."""
        return f"sha256:{keep(content, self.path, self.report).sha256}"

    def has(self, sha256: str) -> bool:
        """Whether a blob is there, whole: SHA-256 in hexadecimal."""
        path = self.path / sha256
        return path.is_file() and digest(path) == sha256

    def remember(self, name: str, sha256: str) -> None:
        """Note where a tag leads now."""
        (self.path / "tags").mkdir(exist_ok=True)
        place = self._tag(name)
        fd, part = tempfile.mkstemp(dir=place.parent, suffix=".part")  # two may note one tag
        with os.fdopen(fd, "w") as file:
            file.write(sha256)
        Path(part).rename(place)

    def recall(self, name: str) -> str:
        """Return where a tag led last, "" if nobody knows."""
        try:
            text = self._tag(name).read_text()
        except OSError:
            return ""
        return text if re.fullmatch("[0-9a-f]{64}", text) else ""

    def _tag(self, name: str) -> Path:
        return self.path / "tags" / hashlib.sha256(name.encode()).hexdigest()
