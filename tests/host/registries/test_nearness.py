"""Servers that send us nearer to this machine than they are: on addresses of a network of our own.

The network namespace has nothing but loopback, with addresses of the world, of a private network
and of a cloud's metadata service on it. What DNS says is the hook of the resolver in ``names``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

START = r"""
import os, socket, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORLD, OTHER, PRIVATE, CLOUD = "9.9.9.9", "8.8.8.8", "10.1.2.3", "169.254.169.254"
HERE = "127.0.0.1"
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in (WORLD, OTHER, PRIVATE, CLOUD):
    subprocess.run(["ip", "address", "add", address + "/32", "dev", "lo"], check=True)

names = {}  # to the addresses that DNS gives, one after the other; the last one stays
lookup = socket.getaddrinfo

def getaddrinfo(host, *words, **more):
    found = names.get(host)
    if found:
        host = found.pop(0) if len(found) > 1 else found[0]
    return lookup(host, *words, **more)

socket.getaddrinfo = getaddrinfo
seen, answers = [], {}  # addresses that got a request; path to status and headers

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        seen.append(self.server.server_address[0])
        status, headers, body = answers.get(self.path.partition("?")[0], (200, {}, b"body"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_HEAD = answer
    def log_message(self, *words):
        pass

for address in (WORLD, OTHER, PRIVATE, CLOUD, HERE):
    server = ThreadingHTTPServer((address, 80), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

from pathlib import Path
from singbuild.download import RedirectError, Session, fetch
from singbuild.errors import SingbuildError
from singbuild.testing.engine import Recorder

def refused(work, *words):
    before = len(seen)
    try:
        work()
    except (SingbuildError, RedirectError) as error:
        said = f"{error} {getattr(error, 'why', '')}"
        assert all(word in said for word in words), said
        return seen[before:]
    raise AssertionError("it was not refused")

count = 0

def got(url):
    global count
    count += 1
    return fetch(url, Path(sys.argv[1], str(count)), report=Recorder())
"""

CASES = {
    "redirects, by address and by name": """
names |= {"world": [WORLD], "near": [PRIVATE], "cloud": [CLOUD], "here": [HERE], "other": [OTHER]}
for target, words in {
    "http://near/": "a private network, 10.1.2.3", "http://10.1.2.3/": "a private network",
    "http://cloud/": "a link-local address, 169", "http://169.254.169.254/": "a link-local",
    "http://here/": "this machine itself, 127", "http://127.1/": "this machine itself",
    "http://[::ffff:10.1.2.3]/": "a private network",
}.items():
    answers["/to"] = (302, {"Location": target + "secret"}, b"")
    assert refused(lambda: got("http://world/to"), words, "world") == [WORLD], target
answers["/to"] = (302, {"Location": "http://other/file"}, b"")
assert got("http://world/to").size == 4
""",
    "from one step to the next": """
names |= {"world": [WORLD], "near": [PRIVATE], "cloud": [CLOUD], "here": [HERE], "other": [OTHER]}
answers["/1"] = (302, {"Location": "http://world/2"}, b"")
answers["/2"] = (302, {"Location": "http://near/3"}, b"")
assert refused(lambda: got("http://near/1"), "a private network") == [PRIVATE, WORLD]
answers["/4"] = (302, {"Location": "http://cloud/5"}, b"")
assert refused(lambda: got("http://near/4"), "a link-local address") == [PRIVATE]
for start, target in (("near", "near"), ("near", "world"), ("here", "here"), ("here", "cloud")):
    answers["/6"] = (302, {"Location": f"http://{target}/file"}, b"")
    assert got(f"http://{start}/6").size == 4
""",
    "a name that changes between two look-ups": """
names |= {"evil": [WORLD, HERE], "again": [WORLD, CLOUD], "moves": [WORLD, PRIVATE]}
assert got("http://evil/file").size == 4
assert refused(lambda: got("http://evil/file"), "evil sends us on to this machine itself") == []
answers["/to"] = (302, {"Location": "/file", "Connection": "close"}, b"")
assert refused(lambda: got("http://again/to"), "a link-local address") == [WORLD]
for _ in range(2):
    assert got("http://moves/file").size == 4  # hosts with two networks do that
names["user"] = [HERE]
assert got("http://user/file").size == 4  # the user's own word
""",
    "a connection that is used again": """
names |= {"world": [WORLD], "near": [PRIVATE]}
with Session() as session:
    assert session.get("http://near/file", timeout=60).text == "body"
    answers["/to"] = (302, {"Location": "http://near/secret"}, b"")
    assert refused(lambda: session.get("http://world/to", timeout=60), "private") == [WORLD]
""",
    "networks that the user trusts": """
names |= {"world": [WORLD], "near": [PRIVATE], "cloud": [CLOUD]}
answers["/to"] = (302, {"Location": "http://near/file"}, b"")
os.environ["SINGBUILD_LOCAL_NETWORKS"] = "192.168.0.0/16, 10.1.0.0/16"
assert got("http://world/to").size == 4
answers["/to"] = (302, {"Location": "http://cloud/file"}, b"")
refused(lambda: got("http://world/to"), "a link-local address")
os.environ["SINGBUILD_LOCAL_NETWORKS"] = "here"
refused(lambda: got("http://world/to"), "names no networks")
""",
    "a proxy looks names up for itself": """
names |= {"near": [PRIVATE]}
os.environ |= {"http_proxy": "http://10.1.2.3:80", "no_proxy": "x"}
answers["http://world/to"] = (302, {"Location": "http://other/file"}, b"")
assert got("http://world/to").size == 4
assert set(seen) == {PRIVATE}
answers["http://world/to"] = (302, {"Location": "http://127.0.0.1/"}, b"")
assert refused(lambda: got("http://world/to"), "this machine itself") == [PRIVATE]
""",
    "token servers": """
from singbuild_docker.mirrors import Place
from singbuild_docker.reference import Reference
from singbuild_docker.site import Site
names |= {"registry": [WORLD], "tokens": [OTHER], "near": [PRIVATE], "here": [HERE]}
site = Site(Place(Reference("registry", "a", "1"), True))
def pull():
    site.fetch("manifests/1", Path(sys.argv[1], "store"), "", 1000, Recorder())
def challenge(realm):
    answers["/v2/a/manifests/1"] = (401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b"")
answers["/token"] = (200, {}, b'{"token": "x"}')
for realm, words in {"near": "a private network", "here": "this machine itself"}.items():
    challenge(f"http://{realm}/token")
    assert not {PRIVATE, HERE} & {*refused(pull, words, "token server")}
challenge("http://tokens/token")
refused(pull, "401")
assert OTHER in seen
""",
    "uploads": """
from singbuild_docker.reference import Reference
from singbuild_docker.upload import Upload
names |= {"registry.test": [WORLD], "near": [PRIVATE], "here": [HERE], "other": [OTHER]}
upload = Upload(Reference("registry.test", "a", "1"), Recorder(), insecure=True)
from hashlib import sha256
where = f"/v2/a/blobs/sha256:{sha256(b'{}').hexdigest()}"
answers[where] = (404, {}, b"")
for target in ("near", "here", "127.0.0.1"):
    answers["/v2/a/blobs/uploads/"] = (202, {"Location": f"http://{target}/put"}, b"")
    assert {*refused(lambda: upload.content(b"{}"), "sends us on to")} == {WORLD}
answers["/v2/a/blobs/uploads/"] = (202, {"Location": "http://other/put"}, b"")
upload.content(b"{}")
assert seen[-1] == OTHER
""",
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_where_a_server_may_send_us(text: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(START + text)
    quiet = {"PYTHONPATH": str(ROOT), "SINGBUILD_CACHEDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "-n", sys.executable, script, tmp_path],
        env={"PATH": os.environ["PATH"]} | quiet,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
