"""Writes the files of a new backend's distribution: ``singbuild new-backend``."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from singbuild import __version__, entry_points
from singbuild.backends import loading
from singbuild.errors import HostError, UsageError

FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "{module}.py": "module.py.j2",
    "tests/test_{module}.py": "test_module.py.j2",
}
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new_backend(name: str, directory: Path | None) -> Path:
    """Write a distribution that installs and passes its tests; return its directory.

    directory: ``singbuild-NAME`` by default; it must not exist or be empty. Raises UsageError
    for a name that is taken or cannot be one, HostError when files cannot be written.
    """
    check_name(name)
    words = {
        "name": name,
        "distribution": f"singbuild-{name}",
        "module": f"singbuild_{name.replace('-', '_')}",
        "version": __version__,
    }
    where = directory or Path(words["distribution"])
    try:
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise UsageError(f"{where} exists", remedy="Name another directory, or remove it.")
        for file, template in FILES.items():
            path = where / file.format_map(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(template, words))
    except OSError as error:
        raise HostError(
            f"{where}: cannot be written",
            why=error.strerror or "",
            remedy="Name a directory in a place where you may write.",
        ) from error
    return where


def check_name(name: str) -> None:
    """Refuse a name that is no Bootstrap: word, or that an installed backend has."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a backend's name",
            remedy="Use lower-case letters, digits and single hyphens, as in my-site.",
        )
    for each in entry_points.installed(loading.GROUP):
        if each.name == name:
            raise UsageError(
                f"the name {name!r} is taken by {each.distribution} {each.version}",
                remedy="Choose another; two backends of one name refuse to work.",
            )


def _filled(template: str, words: dict[str, str]) -> str:
    import jinja2  # nothing else of the command line's way here needs it

    text = (resources.files("singbuild.backends") / "new_backend" / template).read_text()
    environment = jinja2.Environment(
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Python and TOML, not HTML
    )
    return environment.from_string(text).render(words)
