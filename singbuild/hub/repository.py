"""A Git repository, by the git program: its commits, and the files of one.

The repository may be hostile. It is fetched into a bare one of the cache, and its objects are read
by their ids, so that none of its hooks, filters, attributes and submodules has any effect.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from singbuild import command, lease
from singbuild.console.events import printable
from singbuild.download.errors import public_url
from singbuild.errors import HostError, SourceError, UsageError
from singbuild.workspace import cache_directory, make_in_cache

# gitprotocol-common(5); ext:: would execute what it names.
_PROTOCOLS = "file:git:http:https:ssh"
# gc.auto: git would leave its gc in the background, which outlives us. git-config(1),
# gc.autoDetach.
_GIT = ("git", "-c", "core.quotePath=false", "-c", "gc.auto=0", "-c", "core.hooksPath=/dev/null")
# A commit, among what git may warn of.
_COMMIT = re.compile("([0-9a-f]{40}) ([0-9]*) (.*)")
_LATEST = 253_402_300_799  # 9999-12-31: no date is later
_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/hub/HEAD")
# Git keeps no other modes of files: gitformat-index(5).
_REGULAR, _EXECUTABLE, _LINK = 0o100644, 0o100755, 0o120000
LARGEST = 4 << 30  # bytes of all files of a commit
MOST = 200_000  # files of a commit
_LONGEST_LINK = 4095


@dataclass(frozen=True)
class Commit:
    """A commit. id: 40 hexadecimal digits; time: of the committer, seconds since 1970."""

    id: str
    time: int
    subject: str


@dataclass(frozen=True)
class Blob:
    """A file of a commit. path: from the repository's root; mode: as Git has it; size: bytes."""

    path: str
    mode: int
    id: str
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, and neither a link nor a submodule."""
        return self.mode in (_REGULAR, _EXECUTABLE)


class Repository:
    """A fetched repository. source: a path or a URL, as the user named it.

    public_source: without a password, for people, pages, and jobs that find it fetched.
    """

    def __init__(self, source: str) -> None:
        if source.startswith("-") or "\0" in source or "\n" in source:
            raise UsageError(f"{source!r} names no Git repository")
        self.source = str(Path(source).absolute()) if Path(source).exists() else source
        self.public_source = public_url(self.source)
        cache = cache_directory() / "hub"
        name = hashlib.sha256(self.public_source.encode()).hexdigest()[:24]
        self._directory = cache / f"{name}.git"
        self._git = (*_GIT, f"--git-dir={self._directory}")
        self._env = {"GIT_ALLOW_PROTOCOL": _PROTOCOLS, "GIT_TERMINAL_PROMPT": "0"}

    def fetch(self) -> None:
        """Fetch all branches and tags. Raises SourceError, HostError."""
        make_in_cache(self._directory.parent)
        env = command.environment(self._env | _of_ssh())
        words = ["fetch", "-q", "--prune", "--no-recurse-submodules", "--", self.source, *_REFS]
        with lease.leased(self._directory):  # of two at once git fails one: "cannot lock ref"
            for lock in self._directory.rglob("*.lock"):  # of a killed git; no ref is called so
                lock.unlink()
            # Each time: git writes HEAD first, and a killed one may have come no further.
            argv = [*_GIT, "init", "-q", "--bare", str(self._directory)]
            command.run(argv, env=env, package="git")
            done = command.call([*self._git, *words], env=env, package="git")
        if done.status:
            raise SourceError(
                f"the repository {self.public_source} cannot be fetched",
                why="\n".join(map(public_url, done.tail)),
                remedy="Check the path or the URL, and that git itself may read it.",
            )

    def commit(self, name: str = "") -> Commit:
        """Find a commit by its id, a branch or a tag; the default branch's newest without a name.

        Raises UsageError when the repository has none of that name.
        """
        refs = [f"refs/heads/{name}", f"refs/tags/{name}"] if name else ["refs/hub/HEAD"]
        if re.fullmatch("[0-9a-f]{40}", name):
            refs = [name]  # whatever a branch of the repository is called
        elif re.fullmatch("[0-9a-f]{7,39}", name):
            refs.append(name)
        for ref in refs:
            argv = [*self._git, "log", "-1", "--format=%H %ct %s", f"{ref}^{{commit}}", "--"]
            lines: list[str] = []
            done = command.call(argv, on_line=lines.append)
            commits = [match for line in lines if (match := _COMMIT.fullmatch(f"{line} "))]
            if not done.status and commits:
                whole_id, time, subject = commits[0].groups()
                return Commit(whole_id, min(int(time or 0), _LATEST), printable(subject).strip())
        raise UsageError(
            f"{self.public_source} has no commit {name or 'at all'}",
            remedy="Name a branch, a tag, or the first digits of a commit.",
        )

    def files(self, commit: Commit) -> dict[str, Blob]:
        """Return the files of a commit by their paths; submodules are left out.

        Raises SourceError for more than LARGEST bytes or MOST files, or for an impossible path.
        """
        files: dict[str, Blob] = {}
        size = 0
        with command.reading([*self._git, "ls-tree", "-rlz", commit.id]) as lines:
            for line in lines.read(LARGEST >> 4).split(b"\0")[:-1]:
                facts, _, name = line.partition(b"\t")
                mode, kind, blob, length = facts.split()
                path = os.fsdecode(name)
                # git looks at no tree that it fetches: git-config(1), fetch.fsckObjects.
                if {"", ".", "..", ".git"} & set(path.split("/")):
                    raise SourceError(f"the commit {commit.id} has the impossible path {path!r}")
                if kind == b"blob":
                    files[path] = Blob(path, int(mode, 8), blob.decode(), int(length))
                    size += files[path].size
        if size > LARGEST or len(files) > MOST:
            raise SourceError(
                f"the commit {commit.id} has {len(files)} files of {size} bytes",
                why=f"a hub takes at most {MOST} files of {LARGEST} bytes",
            )
        return files

    def check_out(self, files: Iterable[Blob], directory: Path) -> list[str]:
        """Write files below an empty directory; return the links left out, which lead out of it."""
        blobs = list(files)
        ids = "".join(f"{blob.id}\n" for blob in blobs).encode()
        links = []
        with command.reading([*self._git, "cat-file", "--batch"], ids) as objects:
            for blob in blobs:
                header = objects.readline().split()
                if len(header) != 3 or int(header[2]) != blob.size:
                    raise HostError(f"git does not give {blob.path}", why=repr(header))
                path = directory / blob.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if blob.mode == _LINK:
                    links.append((path, objects.read(blob.size)))
                else:
                    _write(path, objects, blob)
                objects.read(1)  # the newline behind it
        return _link(links, directory)


def _write(path: Path, objects: IO[bytes], blob: Blob) -> None:
    mode = 0o755 if blob.mode == _EXECUTABLE else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        rest = blob.size
        while rest:
            piece = objects.read(min(rest, 1 << 20))
            if not piece:
                raise HostError(f"git does not give all of {blob.path}")
            rest -= file.write(piece)


def _link(links: Iterable[tuple[Path, bytes]], directory: Path) -> list[str]:
    """Make links after all files, so that no file is written through one; remove those that escape.

    Each is resolved with all others in place: two harmless ones can lead out together.
    """
    linked = []
    for path, target in links:
        if 0 < len(target) <= _LONGEST_LINK and b"\0" not in target:
            path.symlink_to(os.fsdecode(target))
            linked.append(path)
    root = directory.resolve()
    # An absolute one may lead here now, and elsewhere in another process: /proc/self/fd.
    outside = [
        path
        for path in linked
        if path.readlink().is_absolute() or not _resolved(path).is_relative_to(root)
    ]
    for path in outside:
        path.unlink()
    return sorted(str(path.relative_to(directory)) for path in outside)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return Path("/")


def _of_ssh() -> dict[str, str]:
    """Return the caller's variables by which ssh and git find keys."""
    names = ("SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "GIT_ASKPASS", "XDG_CONFIG_HOME")
    return {name: os.environ[name] for name in names if name in os.environ}
