"""A signature that says: I built this again, from its own recipe and lock, and got the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from singbuild import workspace
from singbuild.console.display import Console
from singbuild.errors import ImageError, SingbuildError
from singbuild.images import difference, rebuild
from singbuild.images.difference import FileChange
from singbuild.privilege.modes import Mode
from singbuild.signatures import signing
from singbuild.signatures.image_file import Placed
from singrun.signatures.statement import REBUILT, Signed, Statement

_NAME = "again"  # of the second image, while it is compared
_MOST_PATHS = 200


class FailedError(Exception):
    """The second build failed. status: its exit status; the console has shown why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def attest(
    image: Path,
    signed: Callable[[Statement], Signed],
    date: str,
    console: Console,
    *,
    beside: Path | None = None,
    privilege: Mode | None = None,
) -> Placed:
    """Build an image again and, if it comes out the same, sign that.

    signed, date, beside: as for ``signing.sign``. Raises FailedError, and SingbuildError if it is
    another image, or one that cannot be built again.
    """
    first = signing.statement_of(image, date, claim=REBUILT)
    with workspace.scratch_directory() as work:
        second = work / _NAME
        if status := rebuild.again(image, second, console, privilege=privilege):
            raise FailedError(status)
        # Signatures in an image are not part of what a statement is about.
        if signing.statement_of(second, date, claim=REBUILT).text() != first.text():
            raise _differing(difference.differing_paths(image, second))

    def signed_if_same(now: Statement) -> Signed:
        if now.text() != first.text():
            raise ImageError(f"{image} was changed while it was built again")
        return signed(now)

    return signing.sign(image, signed_if_same, date, claim=REBUILT, beside=beside)


def _differing(changes: Iterable[FileChange]) -> SingbuildError:
    lines: list[str] = []
    count = 0
    for count, change in enumerate(changes, 1):
        if count <= _MOST_PATHS:
            details = ", ".join(f"{d.what} {d.was} -> {d.now}" for d in change.details)
            lines.append(f"{change.kind}: {change.shown}{': ' * bool(details)}{details}")
    if not count:
        return SingbuildError(
            "the image that was built again has other bytes, though no path differs",
            why="Signatures in a SIF, or another version of the program that writes, do that.",
        )
    more = [f"… and {count - _MOST_PATHS} more"] if count > _MOST_PATHS else []
    return SingbuildError(
        f"the image that was built again differs in {count} path{'s' * (count != 1)}",
        why="\n".join([*lines, *more]),
        remedy="Nothing was signed. docs/reproducibility.md says what makes builds differ.",
    )
