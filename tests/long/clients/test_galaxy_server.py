"""Galaxy's server and its tool runner, driven by planemo: tools in containers of a hub.

The server is Galaxy's own packages with the local runner; planemo uploads what a tool's tests
name, has the server execute the tool, and compares what comes back. No web client is built.
"""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bench.host import wait_until
from tests.long.clients.site import Site, site, venv

pytestmark = [
    pytest.mark.root,
    pytest.mark.long,
    pytest.mark.network,
    pytest.mark.slow("a Galaxy server is installed"),
    pytest.mark.timeout(3600),  # 850 MB from PyPI, the first time
]

VERSION = "26.1.2"
_PARTS = (
    *("web-apps", "app", "auth", "config", "data", "files", "job-execution", "job-metrics"),
    *("navigation", "objectstore", "schema", "tool-shed-schema", "tool-util", "tool-util-models"),
    *("tours", "util", "web-framework", "web-stack"),
)
SERVER = [f"galaxy-{name}=={VERSION}" for name in _PARTS]
ADMIN = "key-of-the-first-start"
CONFIGURATION = f"""\
galaxy:
  data_dir: data
  database_connection: sqlite:///data/galaxy.sqlite?isolation_level=IMMEDIATE
  tool_config_file: tools.xml
  bootstrap_admin_api_key: {ADMIN}
  job_config:
    runners: {{local: {{load: "galaxy.jobs.runners.local:LocalJobRunner", workers: 1}}}}
    execution:
      default: box
      environments:
        box:
          runner: local
          singularity_enabled: true
          env: [{{name: CONTAINERS_REGISTRIES_CONF, value: PLACE/registries.conf}}]
        host: {{runner: local}}
    tools: [{{id: __DATA_FETCH__, environment: host}}]
"""
TOOLBOX = '<toolbox><tool file="PLACE/where.xml"/><tool file="PLACE/fails.xml"/></toolbox>'
_HEAD = """\
<tool id="NAME" name="NAME" version="1" profile="24.0">
  <requirements><container type="docker">debian:stable-slim</container></requirements>
"""
WHERE = """\
  <command><![CDATA[
    cat '$input' >'$output' && . /etc/os-release &&
    echo "in \\$ID, \\$FROM_IMAGE, of \\$(id -u), \\${GALAXY_SLOTS}" | tee -a '$output'
  ]]></command>
  <inputs><param name="input" type="data" format="txt"/></inputs>
  <outputs><data name="output" format="txt"/></outputs>
  <tests><test>
    <param name="input" value="in.txt"/>
    <output name="output"><assert_contents>
      <has_line line="one"/><has_line line="in debian, 1, of UID, 1"/>
    </assert_contents></output>
    <assert_stdout><has_text text="in debian"/></assert_stdout>
  </test></tests>
</tool>
"""
FAILS = """\
  <command detect_errors="exit_code">echo why >&amp;2; exit 3</command>
  <inputs><param name="input" type="data" format="txt"/></inputs>
  <outputs><data name="output" format="txt"/></outputs>
  <tests><test expect_failure="true" expect_exit_code="3">
    <param name="input" value="in.txt"/>
    <assert_stderr><has_line line="why"/></assert_stderr>
  </test></tests>
</tool>
"""


@dataclass(frozen=True)
class Galaxy:
    """A running server. key: of a user's."""

    site: Site
    url: str
    key: str


@pytest.fixture(scope="module")
def galaxy() -> Iterator[Galaxy]:
    programs = venv("galaxy-server", SERVER)
    with site("planemo", "planemo==0.75.47") as user:
        texts = {"where": WHERE.replace("UID", str(user.person.uid)), "fails": FAILS}
        for name, text in texts.items():
            (user.place / f"{name}.xml").write_text(_HEAD.replace("NAME", name) + text)
        (user.place / "test-data").mkdir()
        (user.place / "test-data/in.txt").write_text("one\n")
        (user.place / "tools.xml").write_text(TOOLBOX.replace("PLACE", str(user.place)))
        (user.place / "galaxy.yml").write_text(CONFIGURATION.replace("PLACE", str(user.place)))
        with served(user, programs) as url:
            ada = {"username": "ada", "email": "ada@lab.example", "password": "secret words"}
            identity = post(f"{url}/api/users", ada)["id"]
            yield Galaxy(user, url, post(f"{url}/api/users/{identity}/api_key", {}))


@contextmanager
def served(user: Site, programs: Path) -> Iterator[str]:
    """Start the server as the user; yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    factory = ("--factory", "galaxy.webapps.galaxy.fast_factory:factory", "--port", str(port))
    words = user.person.words(programs / "python", "-m", "uvicorn", *factory)
    log = user.place / "log"
    own = {"GALAXY_CONFIG_FILE": str(user.place / "galaxy.yml")}
    with log.open("wb") as file:
        server = subprocess.Popen(
            words, cwd=user.place, env=user.variables() | own, stdout=file, stderr=file
        )
    try:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: server.poll() is not None or answers(f"{url}/api/version"), 600)
        finally:
            text = log.read_text(errors="replace")[-6000:]
        assert server.poll() is None, text
        yield url
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    """Whether a server answers at a URL."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def post(url: str, body: dict[str, str]) -> Any:
    """Post a JSON object to the server as its administrator; return the answer."""
    headers = {"x-api-key": ADMIN, "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_tools_run_in_containers(galaxy: Galaxy) -> None:
    keys = ("--galaxy_admin_key", ADMIN, "--galaxy_user_key", galaxy.key)
    where = ("--engine", "external_galaxy", "--galaxy_url", galaxy.url, *keys)
    report = ("--test_output", "report.html", "--test_output_json", "report.json")
    place = galaxy.site.place
    done = galaxy.site.call("planemo", "test", *where, *report, "where.xml", "fails.xml")
    tests = json.loads((place / "report.json").read_text())["tests"]
    reports = [
        {name: test["data"].get(name) for name in ("output_problems", "job")} for test in tests
    ]
    assert done.returncode == 0, json.dumps(reports, indent=1)
    outcomes = {test["data"]["tool_id"]: test["data"]["status"] for test in tests}
    assert outcomes == {"where": "success", "fails": "success"}
    assert "singularity -s exec" in (place / "log").read_text(errors="replace")
