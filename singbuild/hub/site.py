"""The directory of a hub's site: its stores by content key, and where each page lies.

    hub.json                        says that the directory is a site
    pruned.json                     keys of images that ``hub prune`` has removed
    images/KEY.sif                  an image, by the content key of its build
    records/KEY.json                what a page shows of it; the same on every machine
    records/KEY.files.json.gz       its files, and KEY.files.js for pages; KEY.spdx.json: its bill
    signatures/KEY.json             who signed it here; KEY.sif.sig beside the image
    runs/KEY.json                   when, where and how long it was built, with the log: differs
    OWNER/NAME/collection.json      the commits, and which key each tag had
    OWNER/NAME/…                    pages

All are renamed into place. Who writes pages holds the site; stores are written without holding
it, by any number of processes, since what has the same name is the same.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from singbuild.errors import ImageError
from singbuild.hub.contents import File

VERSION = 1
LARGEST = 256 << 20  # bytes of a JSON file


class Site:
    """A hub's site. path: its directory, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def open(self) -> None:
        """Make the directory a site. Raises ImageError for one that holds other things."""
        mark = self.path / "hub.json"
        if mark.exists():
            content = self.load("hub.json")
            if content.get("version") != VERSION:
                raise ImageError(f"{self.path} is a site of another version of singbuild's")
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise ImageError(
                f"{self.path} is no hub's site, and not empty",
                remedy="Name a new or empty directory.",
            )
        self.write("hub.json", dumped({"version": VERSION}))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the site against others that write its pages; wait for them."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # some file systems of clusters know no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def image(self, key: str, ending: str = "sif") -> Path:
        """Return where an image is kept."""
        return self.path / "images" / f"{key}.{ending}"

    def has(self, key: str) -> bool:
        """Whether a build is there, with its image."""
        record = self.record(key)
        return bool(record) and record["status"] == "built" and self.image(key).exists()

    def record(self, key: str) -> dict[str, Any]:
        """Return what is known of a build, {} when nothing is."""
        return self.load(f"records/{key}.json")

    def run(self, key: str) -> dict[str, Any]:
        """Return how a build went, {} when it was never made here."""
        return self.load(f"runs/{key}.json")

    def files(self, key: str) -> list[File]:
        """Return an image's files, [] when they are not known."""
        try:
            with gzip.open(self.path / "records" / f"{key}.files.json.gz") as file:
                return [File(*each) for each in json.loads(bounded(file))]
        except FileNotFoundError:
            return []

    def write_files(self, key: str, files: list[File]) -> None:
        """Keep an image's files, for programs and as a script for pages; see assets/hub.js."""
        text = json.dumps(files, separators=(",", ":")).encode()
        # Without the time in the header: a site made twice of the same images is the same bytes.
        packed = gzip.compress(text, mtime=0)
        name = f"records/{key}.files"
        self.write(f"{name}.js", f'hubData("{name}","{base64.b64encode(packed).decode()}");\n')
        self.write(f"{name}.json.gz", packed)

    def pruned(self) -> set[str]:
        """Return the keys of images that were removed on purpose."""
        return set(self.load("pruned.json").get("keys", []))

    def signers(self, key: str) -> list[dict[str, str]]:
        """Return who signed an image here."""
        rows: list[dict[str, str]] = self.load(f"signatures/{key}.json").get("signers", [])
        return rows

    def link_image(self, key: str, name: str) -> None:
        """Give an image a second name, as a hard link: symbolic ones many servers do not follow."""
        image, place = self.image(key), self.path / name
        with contextlib.suppress(FileNotFoundError):
            if place.samefile(image):
                return
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        # Of a killed process that had our number.
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        os.link(image, part)
        os.replace(part, place)  # noqa: PTH105

    def collections(self) -> list[str]:
        """Return the names of all collections, sorted."""
        paths = self.path.glob("*/*/collection.json")
        return sorted(f"{each.parent.parent.name}/{each.parent.name}" for each in paths)

    def join(self, other: Site) -> None:
        """Take over what another site's stores have; nothing that is here is replaced.

        Raises ImageError when the other is no site.
        """
        if not other.load("hub.json"):
            raise ImageError(f"{other.path} is no hub's site")
        # Records come last, and of a build's the one that makes all others count, KEY.json.
        for store in ("images", "signatures", "runs", "records"):
            paths = (other.path / store).glob("[!.]*")
            for path in sorted(paths, key=lambda each: ("." not in each.stem, each.name)):
                place = self.path / store / path.name
                is_failure = store == "records" and self.record(path.stem).get("status") == "failed"
                if path.is_file() and not path.is_symlink() and (is_failure or not place.exists()):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    part = place.with_name(f".{place.name}.{os.getpid()}.part")
                    shutil.copyfile(path, part)
                    os.replace(part, place)  # noqa: PTH105

    def prune(self, keys: set[str], *, dry_run: bool) -> dict[str, int]:
        """Remove the images of all other keys, and their names for clients; return their sizes."""
        removed = {}
        inodes = set()
        for path in sorted((self.path / "images").glob("*.sif")):
            if path.stem not in keys:
                status = path.stat()
                removed[path.stem] = status.st_size
                inodes.add(status.st_ino)
                if not dry_run:
                    path.unlink()
        if not dry_run:
            for store in ("v1/imagefile", "shpc"):
                for path in (self.path / store).rglob("*"):
                    if path.is_file() and path.stat().st_ino in inodes:
                        path.unlink()
            for store in ("api/container", "v1/images"):
                for path in (self.path / store).rglob("*"):
                    if path.is_file() and self._says(path) in removed:
                        path.unlink()
            for key in removed:
                self.image(key, "sif.sig").unlink(missing_ok=True)
            self.write("pruned.json", dumped({"keys": sorted(self.pruned() | removed.keys())}))
        return removed

    def _says(self, path: Path) -> str:
        """Return the key of the image that a file for clients is about."""
        facts = self.load(str(path.relative_to(self.path)))
        return str(facts.get("data", facts).get("id"))

    def load(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file of the site, {} when it is not there.

        Raises ImageError for one that is damaged.
        """
        try:
            with (self.path / name).open("rb") as file:
                values = json.loads(bounded(file))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{self.path / name} is damaged", why=str(error)) from error
        if not isinstance(values, dict):
            raise ImageError(f"{self.path / name} is damaged", why="it holds no object")
        return values

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file of the site, all at once; leave it alone when it is the same already."""
        data = content if isinstance(content, bytes) else content.encode(errors="replace")
        with contextlib.suppress(OSError):
            if (self.path / name).read_bytes() == data:
                return
        self._write(name, [data])

    def write_pieces(self, name: str, pieces: Iterable[str]) -> None:
        """Write a file of the site, all at once, whose text may be too long for the memory."""
        self._write(name, (piece.encode(errors="replace") for piece in pieces))

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(
            prefix=f".{path.name[:64]}.", suffix=".part", dir=path.parent
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(pieces)
            # mkstemp(3) makes 0600, and a web server has to read it. The umask is told only
            # by setting it.
            umask = os.umask(0o077)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)  # noqa: PTH101
            os.replace(part, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)  # noqa: PTH108
            raise


def bounded(file: BufferedIOBase) -> bytes:
    """Return what a file holds, LARGEST bytes of it at most.

    In pieces: read(LARGEST) would have all of that room made before it reads the first byte.
    """
    content = bytearray()
    while len(content) < LARGEST and (piece := file.read(1 << 18)):
        content += piece
    return bytes(content)


def dumped(values: Mapping[str, Any]) -> str:
    """Return values as the text of a JSON file that diffs well."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
