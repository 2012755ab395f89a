"""The example configurations of docs/hub.md, in Debian's nginx and Apache."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from singbuild.hub.site import Site
from tests.bench import hub_sites
from tests.bench.host import PATIENCE, shared_directory, wait_until

pytestmark = [pytest.mark.root, pytest.mark.long]

PAGE = Path(__file__).parents[3] / "docs/hub.md"
NGINX = "daemon off; pid {place}/pid; user www-data; error_log {place}/error.log; events {{}}\n"
NGINX += "http {{ include /etc/nginx/mime.types; access_log off;\n{example}\n}}\n"
APACHE = """\
PidFile {place}/pid
ErrorLog {place}/error.log
User www-data
Group www-data
ServerName localhost
TypesConfig /etc/mime.types
{modules}
{example}
"""
MODULES = ("mpm_event", "authz_core", "mime", "dir", "headers", "rewrite")


def example(language: str) -> str:
    """The block of the page in a language."""
    match = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    assert match
    return match[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with shared_directory() as directory:
        site = Site(directory / "site")
        site.open()
        hub_sites.laboratory(site, "https://hub.example")
        key = json.loads((site.path / "lab/tools/collection.json").read_text())
        image = key["commits"][-1]["builds"]["base"]["key"]
        (site.path / f"images/{image}.sif").write_bytes(bytes(range(256)) * 40)
        subprocess.run(["chmod", "-R", "a+rX", str(directory)], check=True)
        yield directory


@pytest.fixture(params=["nginx", "apache"])
def server(request: pytest.FixtureRequest, place: Path) -> Iterator[str]:
    """A server with the example; yields its URL."""
    program = {"nginx": "nginx", "apache": "apache2"}[request.param]
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    port = free_port()
    text = example(request.param).replace("/srv/hub", str(place / "site"))
    text = re.sub(r"listen 443 ssl;.*?\n|\n *ssl_[a-z_]+ .*?;", "", text, flags=re.S)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace(
        "*:80", f"127.0.0.1:{port}"
    )
    modules = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES
    )
    whole = {"nginx": NGINX, "apache": f"Listen 127.0.0.1:{port}\n{APACHE}"}[request.param]
    configuration = place / f"{request.param}.conf"
    configuration.write_text(whole.format(place=place, example=text, modules=modules))
    words = {
        "nginx": ["nginx", "-c", str(configuration)],
        "apache": ["apache2", "-D", "FOREGROUND", "-f", str(configuration)],
    }[request.param]
    process = subprocess.Popen(words, env=os.environ | {"LC_ALL": "C.UTF-8"})

    def answers() -> bool:
        assert process.poll() is None, (place / "error.log").read_text()
        with socket.socket() as client:
            return not client.connect_ex(("127.0.0.1", port))

    try:
        wait_until(answers, 20 * PATIENCE)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urlopen(Request(url, headers=headers)) as answer:
            return answer.status, dict(answer.headers.items()), answer.read()
    except HTTPError as error:
        return error.code, dict(error.headers.items()), error.read()


def test_pages_and_every_protocol_are_answered(server: str, place: Path) -> None:
    status, headers, text = get(f"{server}/")
    assert (status, b"Container images" in text) == (200, True)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert get(f"{server}/lab/tools/")[0] == 200
    shub = json.loads(get(f"{server}/api/container/lab/tools:base")[2])
    key = shub["id"]
    whole = (place / f"site/images/{key}.sif").read_bytes()
    status, _, part = get(f"{server}/images/{key}.sif", Range="bytes=256-511")
    assert (status, part) == (206, whole[256:512])
    library = json.loads(get(f"{server}/v1/images/lab/tools/base:latest?arch=amd64")[2])
    assert library["data"]["id"] == key
    assert get(f"{server}/v1/imagefile/lab/tools/base:latest?arch=amd64")[2] == whole
    for path in (
        "service-info",
        "tools",
        "tools/lab%7Etools%7Ebase",
        "tools/lab~tools~base/versions",
    ):
        status, headers, text = get(f"{server}/ga4gh/trs/v2/{path}")
        assert status == 200, path
        assert headers["Content-Type"].startswith("application/json")
        json.loads(text)
    assert get(f"{server}/records/{key}.files.json.gz")[2][:2] == b"\x1f\x8b"
    assert get(f"{server}/nothing")[0] == 404
    assert get(f"{server}/.jobs/x")[0] in (403, 404)
