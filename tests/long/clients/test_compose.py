"""singularity-compose: its own tests, but the one that clones from a hub, and a project's life."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

# It says sudo before build; ours needs no rights, so the caller's must do.
SUDO = '#!/bin/sh\nexec "$@"\n'
RECIPE = """\
Bootstrap: docker
From: debian:stable-slim

%startscript
echo "started with $@ on $(hostname)"
echo "$(hostname) has $NAME" >>/shared/hosts
exec sleep 1000

%runscript
echo "run in $(hostname)"
"""
PROJECT = """\
version: "2.0"
instances:
  client:
    image: docker://debian:stable-slim
    volumes_from: [server1]
    depends_on: [server]
    exec: {command: "cat /shared/hosts", options: ["env=NAME=it"]}
  server:
    build: {context: server, recipe: Singularity}
    volumes: ["./shared:/shared"]
    start: {args: "one two", options: ["env=NAME=it"]}
    deploy: {replicas: 2}
    run: []
    post: {command: ["touch", "shared/posted"]}
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("compose", "singularity-compose==0.1.19", "pytest", "requests") as one:
        programs = one.place / "bin"
        programs.mkdir()
        (programs / "sudo").write_text(SUDO)
        (programs / "sudo").chmod(0o755)
        one.more["PATH"] = f"{one.variables()['PATH']}:{programs}"
        yield one


@pytest.mark.parametrize("module", ["command_args", "config", "depends_on", "utils"])
def test_its_own_tests(user: Site, module: str) -> None:
    """Each file in a process of its own: a Project knows the instances of those before it."""
    words = ("python", "-m", "pytest", "--pyargs", f"scompose.tests.test_{module}", "-q")
    done = user.call(*words, "-p", "no:cacheprovider", "--basetemp", user.place / "pytest")
    last = done.stdout.splitlines()[-1]
    assert re.match(r"\d+ passed in", last), done.stdout[-6000:]


def test_a_project(user: Site) -> None:
    project = user.place / "project"
    for directory in (project, project / "server", project / "shared"):
        directory.mkdir()
    (project / "server/Singularity").write_text(RECIPE)
    (project / "singularity-compose.yml").write_text(PROJECT)
    user.own(project)
    try:
        _live(user, project)
    finally:
        compose(user, project, "down")
    assert user.output("singularity", "instance", "list").count("\n") == 1


def _live(user: Site, project: Path) -> None:
    compose(user, project, "build")
    assert {path.name for path in project.rglob("*.sif")} == {"client.sif", "server.sif"}
    up = compose(user, project, "up")
    assert sorted((project / "shared").iterdir())
    assert re.search(r"(Creating server\d.*){2}Creating client1", up, re.S), up
    assert "run in server2" in up
    assert "server1 has it" in up
    listing = compose(user, project, "ps")
    assert re.findall(r"(server1|server2|client1)\s+\d+", listing), listing
    words = ("exec", "client1", "cat", "/shared/hosts", "/etc/hosts")
    output = compose(user, project, *words)
    assert output.count("has it") == 2
    assert re.search(r"10\.22\.0\.\d+\tserver1", output)
    assert "started with one two on server2" in compose(user, project, "logs", "server2")
    assert "run in server1" in compose(user, project, "run", "server1")
    compose(user, project, "restart", "server1")
    compose(user, project, "down", "client1")
    assert "client1" not in compose(user, project, "ps")


def compose(user: Site, project: Path, *words: str) -> str:
    """Call singularity-compose in the project; return all that it prints."""
    line = 'cd "$0" && exec singularity-compose "$@" 2>&1'
    return user.output("sh", "-c", line, project, *words)
