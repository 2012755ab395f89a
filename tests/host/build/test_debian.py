"""The main job on a real Debian: recipes/debian.def, built once, run as root and as a user."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.environment.assignments import EXEC
from tests.bench import bills
from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT, Person

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.slow("the first of them builds a whole Debian"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


@pytest.fixture
def debian(debian_image: Path) -> Path:
    return debian_image


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with images.ordinary_user() as name:
        yield name


@pytest.fixture(scope="module")
def launcher(shared: Path) -> Path:
    return images.installed(shared)


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, launcher: Path, user: str) -> Iterator[Person]:
    yield Person(user if request.param == "user" else "root", launcher)
    images.wait_for_daemons(user)


def test_the_image_is_a_clean_ext3_file_system(debian: Path, tmp_path: Path) -> None:
    subprocess.run(["e2fsck", "-fn", debian], check=True, capture_output=True)
    assert "ext3 filesystem" in subprocess.check_output(["file", debian], text=True)
    mount = f'mount -o loop,ro "{debian}" "{tmp_path}" && cat "{tmp_path}/etc/debian_version"'
    release = subprocess.check_output(["unshare", "-m", "sh", "-c", mount], text=True)
    assert release.startswith("12.")


def test_its_bill_of_materials_is_valid_and_complete(debian: Path, tmp_path: Path) -> None:
    bill = subprocess.check_output([*SINGBUILD, "inspect", "--sbom", debian])
    (tmp_path / "bill.spdx.json").write_bytes(bill)
    parsed = bills.valid_spdx(tmp_path / "bill.spdx.json")
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]
    argv = [sys.executable, "-m", "singrun", "exec", str(debian), *query]
    installed = subprocess.check_output(argv, text=True, cwd=ROOT).splitlines()
    listed = {f"{package.name} {package.version}" for package in parsed.packages}
    assert {*installed} <= listed
    assert len(installed) > 50


def test_programs_of_the_image_run(person: Person, debian: Path) -> None:
    assert "VERSION_CODENAME=bookworm" in person.output("exec", debian, "cat", "/etc/os-release")
    assert person.output("exec", debian, "sh", input=b"echo $((6*7))\n") == "42\n"


def test_inside_user_is_outside_user(person: Person, debian: Path) -> None:
    inside = (
        person.output("exec", debian, "id", "-un"),
        person.output("exec", debian, "id", "-u"),
    )
    assert inside == (f"{person.name}\n", f"{person.uid}\n")
    assert person.output("exec", debian, "id", "-g") == f"{person.gid}\n"
    assert person.output("exec", debian, "sh", "-c", "cd; pwd") == f"{person.home}\n"


def test_plain_exports_need_no_shell(person: Person, debian: Path, shared: Path) -> None:
    """No letter of the environment tells whether /bin/sh was executed."""
    (shared / "no-shell").write_text("")
    (shared / "exec").write_text(EXEC + "# changed\n")
    (shared / "exec").chmod(0o755)
    environment = person.environment() | {
        "SINGRUNENV_MINE": "it's $HOME",
        "BASH_FUNC_f%%": "() { }",
    }
    environments = []
    for bind in ("no-shell:/usr/bin/dash", "exec:/.singularity.d/actions/exec"):
        words = ("exec", "-B", f"{shared}/{bind}", debian, "env", "-0")
        done = person.singrun(*words, env=environment)
        assert done.returncode == 0, done.stderr
        variables = sorted(done.stdout.split(b"\0"))
        environments.append(
            [each for each in variables if b"_BIND=" not in each and b"COMMAND" not in each]
        )
    assert environments[0] == environments[1]
    assert b"MINE=it's $HOME" in environments[0]
    assert b"BASH_FUNC_f%%=() { }" not in environments[0]


def test_id_is_the_same_inside_for_who_has_one_group(debian: Path, launcher: Path) -> None:
    root = Person("root", launcher)
    outside = root.call("id").stdout.decode()
    assert root.output("exec", debian, "id") == outside


def test_the_image_is_a_command(person: Person, debian: Path) -> None:
    environment = person.environment()
    environment["PATH"] = f"{person.launcher.parent}:{environment['PATH']}"
    done = person.call(debian, "^ftp", "^smtp", env=environment)
    assert done.returncode == 0
    assert b"ftp-data\t" in done.stdout
    assert b"smtp\t" in done.stdout
    assert b"http" not in done.stdout


def test_the_recipes_words_are_in_the_image(person: Person, debian: Path) -> None:
    labels = json.loads(person.output("exec", debian, "cat", "/.singularity.d/labels.json"))
    assert labels
    assert person.output("exec", debian, "cat", "/.singularity.d/runscript.help").strip()
    recipe = (ROOT / "recipes/debian.def").read_text()
    assert person.output("exec", debian, "cat", "/.singularity.d/Singularity") == recipe
    assert person.singrun("test", debian).returncode == 0


def test_a_missing_command_is_told_of(person: Person, debian: Path) -> None:
    done = person.singrun("exec", debian, "python")
    assert done.returncode == 127
    assert done.stderr == b"There is no command python in the image\n"


def test_nothing_of_the_hosts_or_of_the_day_is_inside(person: Person, debian: Path) -> None:
    script = "cat /var/log/dpkg.log; ls -A /var/lib/apt/lists /var/cache/apt; cat /etc/hostname"
    output = person.output("exec", debian, "sh", "-c", script)
    assert output.split() == ["/var/cache/apt:", "/var/lib/apt/lists:", "localhost"]
