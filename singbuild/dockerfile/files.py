"""What COPY, ADD and RUN --mount read: the files of a tree that they name, and of the network.

Their digests are part of the lock and of the keys in the cache, so a step is done again when a
file that it reads has changed.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from singbuild import download
from singbuild.contract import Source
from singbuild.dockerfile import context, reader
from singbuild.dockerfile.actions import URL, Copy, Run
from singbuild.file_tree import DIRECTORY, Entry, FileTree
from singbuild.formats.recorded import Recorded
from singbuild.recipe.recipe import Recipe
from singbuild.tar.write import subtree

_OCTAL = re.compile("0*[0-7]{1,4}")
_CLAUSE = re.compile("(?P<who>[ugoa]*)(?P<how>[-+=])([rwxXst]*)")
_BITS = {"r": 4, "w": 2, "x": 1}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0}


@dataclass(frozen=True)
class Overrides:
    """The owner, mode and time that copied entries get; None or "" for their own.

    mode: as ``--chmod`` has it; epoch: seconds.
    """

    owner: tuple[int, int] | None
    mode: str
    epoch: int | None

    def __call__(self, info: tarfile.TarInfo) -> None:
        """Change an archive's header."""
        if self.owner is not None:
            info.uid, info.gid = self.owner
        if self.mode and info.type != tarfile.SYMTYPE:
            info.mode = changed_mode(info.mode, self.mode, is_directory=info.isdir())
        if self.epoch is not None:
            info.mtime = self.epoch


def is_mode(words: str) -> bool:
    """Whether ``--chmod`` takes a mode: octal, or symbolic, as ``u=rwX,go-w``."""
    return bool(_OCTAL.fullmatch(words)) or all(map(_CLAUSE.fullmatch, words.split(",")))


def changed_mode(mode: int, words: str, *, is_directory: bool) -> int:
    """Return a mode after chmod(1) with these words; the umask has no part in it."""
    if _OCTAL.fullmatch(words):
        return int(words, 8)
    for clause in _CLAUSE.finditer(words):
        who, how, letters = clause["who"].replace("a", "ugo") or "ugo", clause["how"], {*clause[3]}
        if "X" in letters and (is_directory or mode & 0o111):
            letters.add("x")
        bits = sum(_BITS[letter] for letter in letters & {*"rwx"})
        rights = sum({bits << _SHIFTS[each] for each in {*who}})
        special = 0o1000 * ("t" in letters) | 0o6000 * ("s" in letters)
        special &= 0o1000 | sum(_SPECIAL[each] for each in {*who})
        if how == "=":
            mode &= ~sum(0o7 << _SHIFTS[each] for each in {*who})
        mode = mode & ~(rights | special) if how == "-" else mode | rights | special
    return mode


def names(action: Copy | Run) -> list[tuple[str, str]]:
    """Return what an action reads of the context or the network, each with its name in the lock."""
    if isinstance(action, Copy):
        sources = () if action.stage else action.sources
    else:
        binds = (each.fields for each in action.mounts if each.kind == "bind")
        sources = tuple(each.get("source", "/") for each in binds if "from" not in each)
    # All triggers have the line of the FROM that executes them.
    where = action.name if action.is_trigger else action.instruction.line
    return [(name, f"{where} {name}") for name in sources]


def digests(recipe: Recipe, action: Copy | Run, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the digest of each source that ``names`` returns, with its name in the lock."""
    for name, key in names(action):
        if isinstance(action, Copy) and name.startswith(URL):
            yield key, f"sha256:{fetched(action, name, source).sha256}"
            continue
        with Recorded(context.directory(recipe.path)) as tree:
            if isinstance(action, Copy):
                for entry in entries(recipe, action, tree, name):
                    tree.record_name(entry)
                    _read(tree, tree.find(entry.path) or entry, left_out(recipe, action))
            elif mounted := tree.find(name):
                _read(tree, mounted, context.ignored(recipe.path), top=True)
            yield key, tree.digest


def _read(
    tree: Recorded, entry: Entry, ignored: Callable[[str], bool], *, top: bool = False
) -> None:
    """Read all that is copied of an entry. top: of a directory, also its own attributes."""
    top = top or entry.inode.kind != DIRECTORY
    for _ in subtree(tree, entry, "it", leave_out=ignored, top=top):
        pass


def entries(recipe: Recipe, action: Copy, tree: FileTree, name: str) -> list[Entry]:
    """Return the entries that a source names. Raises RecipeError for a path that is not there."""
    matches = context.matching(tree, name, left_out(recipe, action), deep=action.keeps_parents)
    if not matches and not context.is_pattern(name):
        where = f"the stage {action.stage}" if action.stage else "the context"
        raise reader.error(
            recipe.source,
            action.instruction,
            f"{where} has no {name}",
            remedy="Correct the path; .dockerignore may leave it out."
            if not action.stage
            else "Correct the path; it starts at the root of that stage.",
        )
    return matches


def below_parents(name: str, entry: Entry) -> str:
    """Return the path that an entry gets below the destination of ``COPY --parents``.

    It is the entry's own, without what stands before ``/./`` in the source that names it.
    """
    before, pivot, _ = name.partition("/./")
    parts = entry.path.decode(errors="surrogateescape").split("/")
    above = posixpath.normpath(f"/{before}").strip("/") if pivot else ""
    return "/".join(parts[above.count("/") + 1 if above else 0 :])


def left_out(recipe: Recipe, action: Copy) -> Callable[[str], bool]:
    """Return a predicate over paths: whether .dockerignore or --exclude excludes one."""
    ignored = (lambda _: False) if action.stage else context.ignored(recipe.path)
    excluded = context.matcher(action.exclude)
    return lambda path: ignored(path) or excluded(path)


def fetched(action: Copy, url: str, source: Source) -> download.Fetched:
    """Fetch a URL and return its file. Raises SourceError."""
    sha256 = action.checksum.removeprefix("sha256:")
    return download.fetch(url, source.cache, report=source.report, sha256=sha256)


def open_lines(action: Copy) -> Iterator[str]:
    """Yield the URLs of which anybody on the way can change the file, as it has no digest."""
    if not action.checksum:
        yield from filter(download.is_open_line, action.sources)
