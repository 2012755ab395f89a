"""Site extensions: a policy, a web hook, and broken ones that stop nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from singbuild.testing import Engine
from tests.bench.host import PATIENCE
from tests.thirdparty.conftest import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.network]
PLUGIN_TIMEOUT = 2 * PATIENCE  # seconds; our own backend must come in time on a busy host too


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each example installed in a directory of its own, for PYTHONPATH."""
    result = {}
    for name in ("policy", "notify"):
        where = tmp_path_factory.mktemp(name)
        project = REPOSITORY / f"tests/thirdparty/singbuild-site-{name}"
        wheels = where / "wheels"
        pip: list[str | Path] = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", wheels, project], check=True)
        argv = [*pip, "install", "-q", "--no-deps", "--target", where, *wheels.iterdir()]
        subprocess.run(argv, check=True)
        result[name] = str(where)
    return result


def with_env(engine: Engine, **env: str) -> Engine:
    return Engine(engine.place, env={"SINGBUILD_EXTENSIONS": "yes", **env})


def test_a_policy_names_all_that_it_objects_to(
    sites: dict[str, str], singbuild_engine: Engine
) -> None:
    engine = with_env(singbuild_engine, PYTHONPATH=sites["policy"], SITE_HOSTS="mirror.example")
    recipe = engine.recipe("Bootstrap: busybox\nMirrorURL: http://elsewhere.example/busybox\n")
    done = engine.build(recipe)
    assert (done.status, engine.left()) == (3, [])
    for says in (
        "The base is not pinned",
        "There is no %test",
        "elsewhere.example is not a mirror",
    ):
        assert says in done.error
    assert "(singbuild-site-policy)" in done.error
    planned = engine.run("plan", recipe)
    assert planned.returncode == 0
    assert "There is no %test" in planned.stderr
    assert "not pinned" not in planned.stderr  # nothing is built, so no lock is missing


def test_a_recipe_that_keeps_to_the_policy_builds(
    sites: dict[str, str], singbuild_engine: Engine
) -> None:
    engine = with_env(singbuild_engine, PYTHONPATH=sites["policy"])
    recipe = engine.recipe("Bootstrap: busybox\n%test\n    true\n")
    locked = engine.run("lock", "--json", recipe)
    assert locked.returncode == 0
    answer = json.loads(locked.stdout)
    assert (answer["version"], answer["command"]) == (1, "lock")
    assert Path(answer["file"]).exists()
    assert answer["lock"]
    assert engine.build(recipe, "--locked").status == 0


def test_the_suite_of_a_backend_leaves_the_sites_policy_out(
    sites: dict[str, str], singbuild_engine: Engine
) -> None:
    env = {"PYTHONPATH": sites["policy"], "SITE_HOSTS": "mirror.example"}
    engine = Engine(singbuild_engine.place, env=env)
    done = engine.build(engine.recipe("Bootstrap: busybox\n"))
    assert done.status == 0, done.error
    (warning,) = [each["text"] for each in done.events if each["event"] == "warning"]
    assert warning == "SINGBUILD_EXTENSIONS=no leaves out the site's extensions: site-policy"


def test_doctor_names_it(sites: dict[str, str], singbuild_engine: Engine) -> None:
    engine = with_env(singbuild_engine, PYTHONPATH=sites["policy"])
    assert "site extension: site-policy (singbuild-site-policy" in engine.run("doctor").stdout


def test_the_example_in_the_page_is_one(singbuild_engine: Engine, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/writing-a-backend.md").read_text().partition("## Site extensions")[2]
    project = tmp_path / "project"
    project.mkdir()
    for language, name in (("toml", "pyproject.toml"), ("python", "singbuild_our_site.py")):
        text = page.partition(f"```{language}\n")[2].partition("```")[0]
        (project / name).write_text(text)
    words = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, *words, str(project)], check=True)
    engine = with_env(singbuild_engine, PYTHONPATH=str(tmp_path / "site"))
    done = engine.build(engine.recipe("Bootstrap: busybox\n"))
    assert done.status == 3
    assert "A section %labels says who answers for it. (singbuild-our-site)" in done.error


class Hook(BaseHTTPRequestHandler):
    events: list[dict[str, Any]]

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        type(self).events.append(json.loads(self.rfile.read(size)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        return


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    Hook.events = []
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", Hook.events
        server.shutdown()
        thread.join()


def test_a_web_hook_is_told_of_finished_builds(
    sites: dict[str, str], singbuild_engine: Engine, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, events = hook
    engine = with_env(singbuild_engine, PYTHONPATH=sites["notify"], SITE_NOTIFY=url)
    assert engine.build(engine.recipe("Bootstrap: busybox\n")).status == 0
    assert engine.build(engine.recipe("Bootstrap: busybox\n%post\n    false\n"), "-F").status == 7
    assert [each["status"] for each in events] == [0, 7]
    assert events[0]["bytes"] == (engine.place / "a.img").stat().st_size
    assert events[0]["image"] == str(engine.place / "a.img")


def test_a_web_hook_that_is_down_is_a_warning(
    sites: dict[str, str], singbuild_engine: Engine
) -> None:
    env = {"PYTHONPATH": sites["notify"], "SITE_NOTIFY": "http://127.0.0.1:9/"}
    done = with_env(singbuild_engine, **env).build(singbuild_engine.recipe("Bootstrap: busybox\n"))
    assert done.status == 0
    warnings = [e["text"] for e in done.events if e["event"] == "warning"]
    assert any("'site-notify' (singbuild-site-notify 1.0) failed in" in text for text in warnings)


def install(place: Path, distribution: str, name: str, text: str) -> None:
    """Put an extension on a path, as pip does."""
    module = distribution.replace("-", "_")
    (place / f"{module}.py").write_text(text)
    about = place / f"{module}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[singbuild.extension]\n{name} = {module}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("import sys; sys.exit(9)", "SystemExit: 9"),
        (
            "import time; time.sleep(60)",
            f"is still being imported after {PLUGIN_TIMEOUT:g} s",
        ),
        (
            "from singbuild import hookimpl\n@hookimpl\ndef singbuild_check_recipe(tree): pass",
            "tree",
        ),
        (
            "from singbuild import hookimpl\n@hookimpl\ndef singbuild_check_recipe(): return 7",
            "failed in singbuild_check_recipe: TypeError",
        ),
    ],
)
def test_a_broken_extension_is_named_and_stops_nobody(
    text: str, says: str, singbuild_engine: Engine, tmp_path: Path
) -> None:
    install(tmp_path, "bad-extension", "bad", text)
    env = {"PYTHONPATH": str(tmp_path), "SINGBUILD_PLUGIN_TIMEOUT": str(PLUGIN_TIMEOUT)}
    done = with_env(singbuild_engine, **env).build(singbuild_engine.recipe("Bootstrap: busybox\n"))
    assert done.status == 0, done.error
    warnings = [e["text"] for e in done.events if e["event"] == "warning"]
    assert len(warnings) == 1
    assert "extension 'bad' (bad-extension 1)" in warnings[0]
    assert says in warnings[0]


OBJECTION = """
from singbuild import hookimpl
@hookimpl
def singbuild_check_recipe(build):
    return [] if "%test" in build.text else "WHO wants a test"
"""


def test_two_that_claim_one_name_are_named_and_neither_is_silenced(
    singbuild_engine: Engine, tmp_path: Path
) -> None:
    install(tmp_path, "the-site", "policy", OBJECTION.replace("WHO", "the site"))
    install(tmp_path, "a-stranger", "policy", OBJECTION.replace("WHO", "a stranger"))
    engine = with_env(singbuild_engine, PYTHONPATH=str(tmp_path))
    refused = engine.build(engine.recipe("Bootstrap: busybox\n"))
    assert refused.status == 3
    assert "the site wants a test (the-site)" in refused.error
    assert "a stranger wants a test (a-stranger)" in refused.error
    done = engine.build(engine.recipe("Bootstrap: busybox\n%test\n    true\n"))
    assert done.status == 0, done.error
    warnings = [e["text"] for e in done.events if e["event"] == "warning"]
    assert len(warnings) == 1
    assert "extension name 'policy' is claimed by a-stranger 1 and the-site 1" in warnings[0]
