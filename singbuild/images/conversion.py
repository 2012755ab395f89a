"""``convert``: an image of any kind becomes one of another, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

from singbuild import about, host, sandbox, workspace
from singbuild.console.display import Console
from singbuild.errors import ImageError
from singbuild.formats import loading
from singbuild.plan import preflight


def convert(source: Path, target: Path, console: Console, *, word: str, force: bool) -> None:
    """Write the image ``source`` to ``target``, of the kind that ``word`` or its name says.

    Raises ImageError, HostError, BackendError. The target is the old one or the new one.
    """
    kind = loading.chosen(target, word)
    target = workspace.resolved(target)
    preflight.check_writer(kind)
    preflight.check_target(target, force=force, directory=kind.format.directory)
    with loading.opened(source) as tree:
        tree.check_clean()
        _check_apart(source, target)
        if kind.format.directory:
            sandbox.write(target, tree, kind, console, replace=force)
            return
        with workspace.part_file(target) as part:
            kind.write(tree, part.file, about.of(tree), console)
            part.chmod(kind.mode & ~host.umask())
            workspace.rename_into_place(part, target, replace=force)


def _check_apart(source: Path, target: Path) -> None:
    """Refuse a target inside the directory that is read, and the other way round."""
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ImageError(f"{target} and {source} lie in one another", remedy="Name another target.")
