"""Nobody but the handle itself makes host paths of the tree: a link in it would lead them out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The handle; the engine's scratch; what seals when no program of the image is left.
TRUSTED = ("root_directory.py", "rootfs.py", "chroot.py", "scratch.py")
FILES = sorted(
    path
    for folder in ("singbuild", "plugins", "tests/thirdparty")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if path.name not in TRUSTED
)


def roots(path: Path) -> list[str]:
    """Where a file does more with ``rootfs.root`` or ``rootfs.path()`` than to pass it on."""
    if "rootfs" not in (text := path.read_text()):
        return []  # most files, and to parse them takes seconds
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    paths = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in ("root", "path"):
            continue
        if not ast.unparse(node.value).endswith("rootfs"):
            continue
        value = parents[node] if node.attr == "path" else node
        above = parents[value]
        joins = isinstance(above, ast.BinOp) or (
            isinstance(above, ast.Attribute) and above.attr not in ("parent", "relative_to")
        )
        if joins or (isinstance(above, ast.Call) and ast.unparse(above.func) in ("Path", "open")):
            paths.append(f"{path.name}:{node.lineno}: {ast.unparse(above)}")
    return paths


def test_no_host_path_is_made_of_the_tree_s() -> None:
    assert len(FILES) > 300
    assert [place for path in FILES for place in roots(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "rootfs.root / 'etc'",
        "rootfs.root.glob('*')",
        "self.rootfs.root.joinpath('x')",
        "rootfs.path('/etc').write_text('')",
        "open(rootfs.root)",
    ],
)
def test_the_test_sees_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert roots(tmp_path / "a.py")
