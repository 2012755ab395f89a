"""The contract of formats is documented as it is, and a stranger that breaks it is named."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from singbuild import FileTree, Format, entry_points, hookimpl
from singbuild.entry_points import Installed
from singbuild.errors import BackendError, ImageError
from singbuild.formats import hookspecs, loading

PAGE = (Path(__file__).parents[2] / "docs/writing-a-format.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("singbuild_")}


def test_the_page_for_authors_has_every_hook_with_its_exact_arguments() -> None:
    sections = dict(re.findall(r"^### `(singbuild_\w+)\((.*?)\)`$", PAGE, re.M))
    exact = {name: ", ".join(inspect.signature(hook).parameters) for name, hook in HOOKS.items()}
    assert sections == exact


def test_the_page_names_every_method_that_a_reader_gives() -> None:
    for name in FileTree.__abstractmethods__:
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_when_what_and_since(name: str) -> None:
    text = inspect.getdoc(HOOKS[name]) or ""
    assert all(f"\n{word}:" in text for word in ("When", "Return", "Since"))


class Sound:
    @hookimpl
    def singbuild_format(self) -> object:
        return Format("help", (".mine",))

    @hookimpl
    def singbuild_recognise(self) -> bool:
        return True

    @hookimpl
    def singbuild_open(self, path: Path) -> FileTree:
        raise RuntimeError("a bug of mine")


class WithoutOpen:
    @hookimpl
    def singbuild_format(self) -> object:
        return Format("help")

    @hookimpl
    def singbuild_recognise(self) -> bool:
        return False


class WithoutData(Sound):
    @hookimpl
    def singbuild_format(self) -> object:
        return "a file"


class WithAnotherHook(Sound):
    @hookimpl
    def singbuild_compress(self) -> None: ...


def stranger(plugin: type, monkeypatch: pytest.MonkeyPatch) -> Installed:
    entry = EntryPoint("mine", f"{__name__}:{plugin.__name__}", loading.GROUP)
    installed = Installed("mine", "their-dist", "4.2", entry)
    monkeypatch.setattr(entry_points, "imported", lambda *_: plugin())
    return installed


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (WithoutOpen, "no singbuild_open"),
        (WithoutData, "not a Format"),
        (WithAnotherHook, "singbuild_compress"),
    ],
)
def test_one_that_breaks_the_contract_is_named(
    plugin: type, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        loading.load(stranger(plugin, monkeypatch))
    assert "their-dist 4.2" in caught.value.remedy


def test_a_bug_of_one_is_a_bug_of_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = loading.load(stranger(Sound, monkeypatch))
    with pytest.raises(BackendError, match=r"failed in singbuild_open.*a bug of mine") as caught:
        kind.open(tmp_path)
    assert "their-dist 4.2" in caught.value.remedy
    assert not kind.can_write
    with pytest.raises(ImageError, match="only read"):
        kind.write(None, tmp_path, None, None)  # type: ignore[arg-type]
