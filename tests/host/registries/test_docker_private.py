"""Whole builds from a private repository: TLS of a private authority, and a token server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.builds import Build
from tests.bench.docker_images import archive, file, image, symlink
from tests.bench.docker_registry import genuine, push
from tests.bench.docker_source import quick
from tests.host.registries.test_docker_tokens import Login, Site, login, shared, site

pytestmark = pytest.mark.root
__all__ = ["login", "quick", "shared", "site"]
BUSYBOX = Path("/bin/busybox")


def test_a_broken_file_of_credentials_is_warned_of_once(
    site: Site, singbuild: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolving and unpacking both look there."""
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    shell = file("bin/sh", BUSYBOX.read_bytes(), mode=0o755)
    (tmp_path / "data").symlink_to(site.ca.parent / "data")
    with genuine(tmp_path) as name:
        push(image(archive(shell)), name, "open/box", "1")
    site.tokens.rights["open/box"] = ("",)
    done = singbuild("pull", f"docker://{site.name}/open/box:1", "a.img")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("config.json: cannot be understood") == 1, done.stderr


def test_a_private_image_is_pulled_and_runs(
    site: Site, login: Login, singbuild: Build, tmp_path: Path
) -> None:
    shell = file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
    links = [symlink(f"bin/{name}", "busybox") for name in ("sh", "cat")]
    result = image(archive(shell, *links), archive(file("text", b"here\n")))
    (tmp_path / "data").symlink_to(site.ca.parent / "data")
    with genuine(tmp_path) as name:
        push(result, name, "busy/box", "1")
    site.tokens.rights["busy/box"] = ("ada",)
    words = ("pull", f"docker://{site.name}/busy/box:1", "a.img")
    for user, password, output in (
        ("ada", "wrong", "incorrect username or password"),
        ("bob", "bob", "who has no right to pull it"),
    ):
        login(user, password)
        done = singbuild(*words)
        assert done.returncode == 6
        assert output in done.stderr
        assert not (tmp_path / "a.img").exists()
    login("ada", "secret")
    done = singbuild(*words)
    assert done.returncode == 0, done.stderr
    made_of = (tmp_path / "a.img").read_bytes()
    assert not any(token.encode() in made_of for token in site.tokens.issued)
    assert site.tokens.users[0].removeprefix("Basic ").encode() not in made_of
    launcher = Path(sys.executable).parent / "singrun"
    argv = [str(launcher), "exec", str(tmp_path / "a.img"), "cat", "/text"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "here\n", done.stderr
