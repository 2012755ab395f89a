"""The builder's command is nobody's but its own: no variable and no user site breaks it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from singbuild import __version__
from tests.bench.singrun_images import ROOT

LAUNCHER = ROOT / "share/singbuild"
BESIDE = Path(sys.executable).parent / "singbuild"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A directory with a click for another Python, as modules of a cluster's software have it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "click.py").write_text("raise ImportError('built for another Python')\n")
    return site


def version(command: Path, **variables: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}
    done = subprocess.run([command, "--version"], env=env, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_variables_of_python_do_not_count(broken: Path) -> None:
    output = f"singbuild {__version__}\n"
    assert version(BESIDE, PYTHONPATH=str(broken)) == output
    assert version(BESIDE, PYTHONHOME="/opt/python27") == output
    assert version(BESIDE, PYTHONSTARTUP=str(broken / "click.py"), PYTHONUTF8="x") == output


@pytest.mark.parametrize("linked", [False, True])
def test_a_users_installation_is_found_and_what_lies_beside_it_is_not(
    broken: Path, tmp_path: Path, linked: bool
) -> None:
    """As `pip install --user` lays it out, with this run's packages in the place of copies."""
    prefix = tmp_path / "prefix"
    site = prefix / f"lib/{VERSION}/site-packages"
    site.mkdir(parents=True)
    (prefix / "bin").mkdir()
    command = prefix / "bin/singbuild"
    command.write_bytes(LAUNCHER.read_bytes())
    command.chmod(0o755)
    packages = sysconfig.get_path("purelib")
    (site / "_singbuild.pth").write_text(f"{ROOT}\n{ROOT}/plugins\n{packages}\n")
    user = tmp_path / f"home/.local/lib/{VERSION}/site-packages"
    user.mkdir(parents=True)
    (user / "click.py").write_bytes((broken / "click.py").read_bytes())
    if linked:
        (tmp_path / "link").symlink_to(command)
        command = tmp_path / "link"
    output = version(command, HOME=str(tmp_path / "home"), PYTHONPATH=str(broken))
    assert output == f"singbuild {__version__}\n"


def test_a_missing_python_is_said(tmp_path: Path) -> None:
    script = f"command() {{ false; }}; set -- --version; here={tmp_path}; "
    text = LAUNCHER.read_text().replace("/usr/bin/python3", "/nonexistent/python3")
    done = subprocess.run(["/bin/sh", "-c", script + text, f"{tmp_path}/singbuild"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 5
    assert "python3 is not where the installation put it" in done.stderr
