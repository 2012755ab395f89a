"""Bootstrap: scratch. An empty tree, which %setup, %files or another stage fills."""

from __future__ import annotations

from singbuild import Needs, Pins, Source, hookimpl


@hookimpl
def singbuild_needs() -> Needs:
    """Nothing; a tree for another kind of machine is as empty."""
    return Needs(space=1 << 20, foreign=True)


@hookimpl
def singbuild_resolve() -> Pins:
    """Pin the one input that there is."""
    return {"tree": "empty"}


@hookimpl
def singbuild_bootstrap(source: Source) -> bool:
    """Leave the tree as it is."""
    source.report.line("it stays empty: %setup, %files or another stage fill it")
    return True
