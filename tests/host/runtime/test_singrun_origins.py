"""What an image was pulled from, which a policy may ask, is what a cache or a library calls it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.host.runtime.test_singrun_policy import Site, module_site, site

__all__ = ["module_site", "site"]
pytestmark = pytest.mark.root


def test_what_was_pulled_is_known_by_its_origin(site: Site) -> None:
    pulled = Path(site.user.home) / ".cache/singbuild/pulled/docker:registry.example%2Flab%2Ft:1"
    pulled.mkdir(parents=True)
    shutil.copy(site.signed, pulled / "t:1")
    subprocess.run(["chown", "-R", site.user.name, f"{site.user.home}/.cache"], check=True)
    (Path(site.user.home) / ".cache/singbuild").chmod(0o700)
    site.rule("run registry=docker://registry.example/lab/*")
    assert site.starts("docker://registry.example/lab/t:1")
    assert site.starts(pulled / "t:1")
    assert not site.starts(site.signed)
    site.rule("refuse registry=docker://registry.example/lab/*", "run path=*")
    assert not site.starts("docker://registry.example/lab/t:1")
    assert not site.starts(pulled / "t:1")


def test_behind_sudo_no_variable_of_the_user_makes_an_origin(site: Site) -> None:
    person = site.user
    own = Path(person.home) / "own"
    for parent in (own, own / "pulled", own / "singbuild/pulled"):
        name = parent / "docker:registry.example%2Flab%2Ft:1/t:1"
        name.parent.mkdir(parents=True)
        shutil.copy(site.image, name)
    subprocess.run(["chown", "-R", person.name, own], check=True)
    site.rule("run registry=docker://registry.example/lab/*")
    sudo = {"SUDO_UID": str(person.uid), "SUDO_GID": str(person.gid)}
    for parent, variable in (
        (own / "pulled", {"SINGBUILD_CACHEDIR": str(own)}),
        (own / "singbuild/pulled", {"APPTAINER_CACHEDIR": str(own)}),
        (own, {"SINGRUN_LIBRARY": str(own)}),
    ):
        image = parent / "docker:registry.example%2Flab%2Ft:1/t:1"
        own_call = person.environment() | variable
        done = person.singrun("exec", image, "true", env=own_call)
        assert done.returncode == 0, done  # no wall around an ordinary user
        for words in (("--as-caller",), ()):
            variables = site.root.environment() | sudo | variable
            done = site.root.singrun("exec", *words, image, "true", env=variables)
            assert (done.returncode, b"may not be run" in done.stderr) == (255, True), done


def test_root_for_a_user_searches_libraries_of_the_site_alone(site: Site) -> None:
    library = Path(site.user.home) / "library"
    library.mkdir()
    shutil.copy(site.image, library / "tool.img")
    (library / "tool.img").chmod(0o755)
    (library / "conf").write_text(f"image library = {library}\n")
    subprocess.run(["chown", "-R", site.user.name, library], check=True)
    sudo = {"SUDO_UID": str(site.user.uid), "SUDO_GID": str(site.user.gid)}
    for variable in (
        {"SINGRUN_LIBRARY": str(library)},
        {"SINGRUN_CONFIG": str(library / "conf")},
    ):
        own = site.user.environment() | variable
        assert site.user.singrun("exec", "tool", "true", env=own).returncode == 0
        variables = site.root.environment() | sudo | variable
        words = ("exec", "--as-caller", "tool", "true")
        done = site.root.call(site.launcher, *words, env=variables)
        assert (done.returncode, b"Cannot open the image" in done.stderr) == (255, True), done
