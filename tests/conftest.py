"""What all tests share: who may run, where caches go, and that the host is left as it was found."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.bench import debian_archive, host, once, pages, rpm_repository, slurm_cluster
from tests.bench import singrun_images as images
from tests.bench.builds import DIRECTORIES, SINGBUILD, Build, Builder, User, building_user
from tests.bench.host import shared_directory
from tests.bench.mpi_bench import MpiBench

OF_THE_RUN = pytest.StashKey[contextlib.ExitStack]()
TOO_LONG = 30
"""Seconds that a test of ``make test`` may take, unless its marker ``slow`` says why."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # started with nohup(1): builds would ignore it
    # Containers set it; hundreds of processes would each compile all modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):  # a worker ends with the process that started it
        _end_on_sigterm()
    # How long an example takes says how busy the host is.
    settings.register_profile(
        "busy host", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("busy host")
    config.stash[OF_THE_RUN] = stack = contextlib.ExitStack()
    stack.enter_context(once.directory_of_the_run())
    if not os.geteuid() and (directory := host.own_mount_namespace()):
        stack.callback(host.give_back, directory)


def _end_on_sigterm() -> None:
    """Let SIGTERM end the run as Ctrl-C does: by default nothing would be cleaned up."""
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a child that a test forked
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)


def pytest_unconfigure(config: pytest.Config) -> None:
    if stack := config.stash.get(OF_THE_RUN, None):
        stack.close()


def pytest_report_header() -> list[str]:
    without = "may not mount here: its tests are skipped"
    return [f"root {without}"] if os.geteuid() == 0 and not host.may_mount() else []


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten a long one: pytest sets a variable to it, and execve(2) takes 128 KiB of each."""
    return f"{val[:60]!a}..." if isinstance(val, str | bytes) and len(val) > 500 else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    timeout = pytest.mark.timeout(float(config.getini("timeout") or 0) * host.PATIENCE)
    for item in items:
        if reason := why_not(item):
            item.add_marker(pytest.mark.skip(reason=reason))
        if config.getoption("timeout") is None and not item.get_closest_marker("timeout"):
            item.add_marker(timeout)
    # Files with the slowest tests first, and those of many: a worker that begins such a one at the
    # end keeps the others idle.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (item.path not in slow, "unit" in item.path.parts, -count[item.path])
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file together, for its fixtures, where no xdist_group says otherwise."""
    from xdist.scheduler import LoadGroupScheduling

    config.option.loadscopereorder = False  # the order is the one that is made above

    class ByFile(LoadGroupScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            group: str = super()._split_scope(nodeid)
            return group if group != nodeid else nodeid.rsplit("::", 1)[0].split("[")[0]

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # On a host with twice as many processes as cores, everything takes twice as long.
    limit = TOO_LONG * host.PATIENCE * max(1, os.getloadavg()[0] / (os.cpu_count() or 1))
    may = any(map(item.get_closest_marker, ("slow", "long")))
    if report.passed and report.duration > limit and not may:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid}: {report.when} took {report.duration:.0f} s, more than {limit:.0f}: "
            "make it quicker, or say why by @pytest.mark.slow(...)"
        )
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many commands of the pages were executed, and how many not, and why."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        counts += Counter(dict(report.user_properties).get("pages", {}))
    if not counts:
        return
    reasons = Counter(b.reason for b in pages.all_blocks() if b.reason)
    terminalreporter.section("commands of README and docs/")
    terminalreporter.line(f"executed: {counts['commands']}; answers compared: {counts['answers']}")
    for reason, number in reasons.items():
        terminalreporter.line(f"blocks left out: {number}: {reason}")


def why_not(item: pytest.Item) -> str:
    """Why who runs the tests cannot run one, "" when nothing is known against it."""
    if not item.get_closest_marker("root"):
        return ""
    if os.geteuid():
        return "needs root"
    return "" if host.may_mount() else "needs root who may mount"


@pytest.fixture(scope="session", autouse=True)
def own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches, logs and scratch of the tests are the tests' own."""
    base = tmp_path_factory.mktemp("singbuild")
    with pytest.MonkeyPatch.context() as patch:
        for name in DIRECTORIES:
            directory = base / name.lower()
            directory.mkdir()
            patch.setenv(name, str(directory))
        yield base


@pytest.fixture(autouse=True)
def host_left_alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A test that leaves a mount, a loop device or a child process behind has failed."""
    base = str(tmp_path_factory.getbasetemp())
    before = host.host_state(base)
    yield
    # The kernel takes a killed namespace down a moment after its last process.
    deadline = time.monotonic() + 10 * host.PATIENCE
    while (leftovers := host.host_state(base).new_since(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    leftovers.end()  # so that it is charged to this test alone
    assert not leftovers, f"{request.node.name} left something on the host: {leftovers}"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe and return its path."""

    def write(text: str, name: str = "recipe.def") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Who builds: root; tests.bench.privilege_modes has others."""
    return Builder("root", tmp_path_factory.mktemp("builder"))


@pytest.fixture
def singbuild(builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Run the real command in ``tmp_path``; its scratch is ``tmp_path/scratch``."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("SINGBUILD_TMPDIR", str(scratch))

    def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return builder.run(*words, cwd=tmp_path, capture_output=True, text=True, **more)

    return run


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Check that a build left no target, part file or scratch; mounts are counted elsewhere."""

    def check() -> None:
        leftovers = [str(p.relative_to(tmp_path)) for p in (tmp_path / "scratch").rglob("*")]
        parts = [p.name for p in tmp_path.iterdir() if p.suffix == ".part"]
        assert (leftovers, parts) == ([], [])
        assert not (tmp_path / "a.img").exists()

    return check


@pytest.fixture(scope="session")
def mpi(own_directories: Path) -> Iterator[MpiBench]:
    """Build recipes/mpi.def, once for all tests."""
    with shared_directory() as directory, images.ordinary_user("mpi") as name:
        yield MpiBench(directory, name)


# Not for a whole run: a file with a Slurm of its own would wait for the end of this one for ever.
@pytest.fixture(scope="module")
def slurm(mpi: MpiBench) -> Iterator[slurm_cluster.Cluster]:
    """Start a Slurm of two nodes for the tests of one file."""
    with shared_directory() as directory, slurm_cluster.cluster(directory) as cluster:
        mpi.user.variables |= cluster.variables
        yield cluster


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    """The name of an ordinary user who is there for the tests of one file."""
    with images.ordinary_user() as name:
        yield name


@pytest.fixture
def user(account: str) -> Iterator[User]:
    """An ordinary user who builds."""
    with building_user(account) as user:
        yield user


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A recipe of packages from a repository of ours."""
    if not rpm_repository.have_programs():
        pytest.skip("needs dnf and rpm's tools")
    with rpm_repository.served(rpm_repository.make(tmp_path_factory.mktemp("rpms"))) as mirror:
        head = f"Bootstrap: yum\nOSVersion: 7\nMirrorURL: {mirror}\n"
        yield f"{head}GPGKey: {mirror}/RPM-GPG-KEY-site\nInclude: hello rpm\n"


@pytest.fixture(scope="session")
def runtime(own_directories: Path) -> Iterator[images.Bench]:
    """An installed runtime, an ordinary user, a tree and an image: once for each worker."""
    with images.bench() as bench:
        yield bench


@pytest.fixture(scope="module")
def bench(runtime: images.Bench) -> Iterator[images.Bench]:
    """The same with a directory, a tree and an image of one file's own."""
    with shared_directory() as directory:
        yield runtime.copy(directory)


@pytest.fixture(scope="session")
def mini_debian() -> Iterator[str]:
    """Header lines of a recipe that bootstraps a small Debian from loopback, in seconds."""
    archive = debian_archive.archive()
    with rpm_repository.served(archive.place) as url:
        yield archive.header(url)


@pytest.fixture(scope="session")
def debian_image() -> Iterator[Path]:
    """The image of recipes/debian.def, built once for the run; to be read alone."""

    def build(where: Path) -> None:
        argv = [*SINGBUILD, "-q", "recipes/debian.def", str(where / "debian.img")]
        subprocess.run(argv, cwd=images.ROOT, check=True)

    built = once.once("debian-image", build) / "debian.img"
    with shared_directory() as directory:
        subprocess.run(["cp", "--sparse=always", built, directory], check=True)
        yield directory / built.name
