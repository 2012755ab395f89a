"""What a word names that an image shall be made of: a recipe, a URI, an image, a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singbuild.errors import SourceError

if TYPE_CHECKING:
    from singbuild.recipe.grammar import Recipe


def is_uri(word: str) -> bool:
    """Whether a word names an image by SCHEME:NAME, and no file has that name."""
    from singbuild.images import pull
    from singbuild.transports import loading as transports

    scheme, colon, _ = word.partition(":")
    schemes = (*pull.SCHEMES, *transports.schemes())
    return bool(colon) and scheme in schemes and not Path(word).exists()


def recipe(
    word: str,
    *,
    insecure: bool,
    build_args: Sequence[str] = (),
    build_arg_file: Path | None = None,
    on_unused: Callable[[str], None] | None = None,
) -> Recipe:
    """Return the recipe that a word names, or the one that copies what it names."""
    from singbuild.images import pull
    from singbuild.recipe import grammar
    from singbuild.recipe.text import Text

    path = Path(word)
    refuse_plain_http(word)
    if is_uri(word):
        return pull.recipe(word, insecure=insecure)
    if path.is_dir() or _is_binary(path):
        text = f"Bootstrap: localimage\nFrom: {path.absolute()}\n"
        return grammar.parse(Text(word, text))
    return grammar.load(
        word, build_args=build_args, build_arg_file=build_arg_file, on_unused=on_unused
    )


def refuse_plain_http(word: str) -> None:
    """Refuse a file on a web server that says who it is to nobody. SourceError."""
    if word.startswith("http://"):
        raise SourceError(
            f"cannot get {word}",
            why="Nothing is fetched by plain http, where anybody may answer.",
            remedy=f"Say https://{word[7:]}, or fetch the file with another program.",
        )


def is_image(word: str) -> bool:
    """Whether a word names an image that says what it is; a bare directory is only a tree."""
    path = Path(word)
    if is_uri(word):
        return False
    return (path / ".singularity.d").is_dir() if path.is_dir() else _is_binary(path)


def _is_binary(path: Path) -> bool:
    """Whether there is a file, and none of text; every image has zeros in its first block."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0" in file.read(4096)
