"""The runtime as a single file does what the installed one does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person
from tests.host.runtime.test_singrun_launch import (
    image,
    shared,
    test_a_command_that_is_missing_or_no_program,
    test_a_script_on_standard_input,
    test_a_signal_from_outside_reaches_the_program_itself,
    test_names_of_any_bytes,
    test_other_descriptors_are_handed_on_and_none_of_ours,
    test_the_environment_is_the_callers_and_the_images,
    test_the_image_executes_itself,
    test_the_user_inside_is_the_user_outside,
)
from tests.host.runtime.test_singrun_options import (
    own,
    test_a_host_name_of_its_own,
    test_plan_tells_every_mount_and_does_nothing,
    test_the_doctor,
)
from tests.host.runtime.test_singrun_site import test_what_the_sites_file_refuses_and_reports

pytestmark = pytest.mark.root
# Some of the tests of launches and of options once more; tests/long has them all.
__all__ = [
    "image",
    "own",
    "shared",
    "test_a_command_that_is_missing_or_no_program",
    "test_a_host_name_of_its_own",
    "test_a_script_on_standard_input",
    "test_a_signal_from_outside_reaches_the_program_itself",
    "test_names_of_any_bytes",
    "test_other_descriptors_are_handed_on_and_none_of_ours",
    "test_plan_tells_every_mount_and_does_nothing",
    "test_the_doctor",
    "test_the_environment_is_the_callers_and_the_images",
    "test_the_image_executes_itself",
    "test_the_user_inside_is_the_user_outside",
    "test_what_the_sites_file_refuses_and_reports",
]


@pytest.fixture(scope="module")
def bench(bench: Bench) -> Bench:
    return Bench(bench.directory, bench.user, images.single_file(bench.directory))


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(bench.directory)


def test_it_is_one_file_that_python_runs_too_and_always_the_same(tmp_path: Path) -> None:
    tree = images.fill(tmp_path / "tree")
    for name in ("one", "two"):
        command: list[images.Word] = [images.PYTHON, "-m", "singrun.bundle", tmp_path / name]
        subprocess.run(command, check=True, cwd=images.ROOT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    single = Path(shutil.copy(tmp_path / "one", tmp_path / "singrun.pyz"))
    starts: list[list[images.Word]] = [[single], [images.PYTHON, "-IS", single]]
    for start in starts:
        words: list[images.Word] = [*start, "exec", tree, "echo", "x"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("x\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "one", "two", "singrun.pyz"}
