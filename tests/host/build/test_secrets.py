"""Secrets are readable in %post and nowhere else: not in image, log, output, cache or scratch."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import Build, Builder, User, killed_in
from tests.bench.singrun_images import ROOT
from tests.host.build.test_build import debugfs

pytestmark = pytest.mark.root

VALUE = "it's-a-s3cret+value/42"
TRACES = (VALUE, VALUE.replace("'", "'\"'\"'"), base64.b64encode(VALUE.encode()).decode())
USES = """\
Bootstrap: busybox
%post
    test "$(stat -c %a /run/secrets/token)" = 400
    test "$(stat -c %a:%u /run/secrets)" = 700:0
    echo the value is "$(cat /run/secrets/token)"
    base64 /run/secrets/token
    wc -c < /run/secrets/token > /size
%test
    test ! -e /run/secrets
"""


def traces(*places: Path) -> list[str]:
    """Files at or below some places that hold the secret in any spelling."""
    files = [f for place in places for f in [place, *place.rglob("*")] if f.is_file()]
    return [str(f) for f in files if any(t.encode() in f.read_bytes() for t in TRACES)]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret as the command line names it; the cache and the logs are the test's own."""
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TOKEN", VALUE)
    return "--secret=id=token,env=TOKEN"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_secret_is_read_and_hidden(
    form: list[str], token: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(USES)
    done = singbuild("build", *form, token, path, "a.img")
    assert done.returncode == 0, done.stderr
    assert "the value is ***" in done.stdout
    assert [trace for trace in TRACES if trace in done.stdout + done.stderr] == []
    image = tmp_path / "a.img"
    assert traces(image, tmp_path / "cache", tmp_path / "scratch") == []
    assert len(list((tmp_path / "cache/stages").glob("*.img"))) == 3
    assert debugfs(image, "cat /size") == f"{len(VALUE)}\n"
    assert "secrets" not in debugfs(image, "ls /run")
    report = tmp_path / "report.xml"
    path = recipe(USES.replace("%test", "    false\n%test"))
    failing = singbuild("--junit", report, token, path, "b.img")
    assert failing.returncode == 7
    assert [trace for trace in TRACES if trace in failing.stdout + failing.stderr] == []
    assert [*(tmp_path / "state").rglob("*.log")]
    assert "the value is ***" in report.read_text()
    assert traces(tmp_path / "state", report) == []


LEAKS = {
    "/opt/deep/leak": "mkdir -p /opt/deep; cp /run/secrets/token /opt/deep/leak",
    "/base64": "(echo -n Basic:; cat /run/secrets/token) | base64 -w 0 > /base64",
    "/it's-a-s3cret+value": 'mkdir -p "/$(dirname "$(cat /run/secrets/token)")"; '
    'ln -s "$(cat /run/secrets/token)" "/it\'s-a-s3cret+value/link"',
    "/var/log/app": "mkdir -p /var/log; cat /run/secrets/token > /var/log/app",
    "/moved/token": "cp -r /run/secrets /moved",
}


@pytest.mark.parametrize("where", LEAKS)
def test_a_secret_in_the_tree_fails_the_build_and_names_the_path(
    where: str,
    token: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    tmp_path: Path,
) -> None:
    done = singbuild(token, recipe(f"Bootstrap: busybox\n%post\n    {LEAKS[where]}\n"), "a.img")
    assert done.returncode == 7, done.stdout
    assert f"the secret 'token' is in the image: {where}" in done.stderr
    assert traces(tmp_path / "cache", tmp_path / "state") == []
    nothing_left()


def test_what_is_taken_away_before_the_seal_may_hold_it_without_a_cache(
    token: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe("Bootstrap: busybox\n%post\n    cp /run/secrets/token /tmp/token\n")
    assert singbuild("--no-cache", token, path, "a.img").returncode == 0
    assert traces(tmp_path / "a.img") == []


def test_the_recipe_itself_must_not_tell_it(
    token: str, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    path = recipe("Bootstrap: busybox\n%labels\n    Token {{ token }}\n%post\n    true\n")
    done = singbuild(token, f"--build-arg=token={VALUE}", path, "a.img")
    assert done.returncode == 7
    assert "is in the image: /.singularity.d/" in done.stderr


def test_the_cache_knows_its_name_and_not_its_value(
    token: str, recipe: Callable[[str], Path], singbuild: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(USES)
    assert singbuild(token, path, "a.img").returncode == 0
    monkeypatch.setenv("TOKEN", "quite another value")
    assert "cache: image: hit" in singbuild(token, path, "b.img").stdout
    other = singbuild(token, "--secret=id=other,env=TOKEN", path, "c.img")
    assert "cache: post: changed: secrets" in other.stdout


def test_a_killed_build_leaves_no_secret_on_the_disk(
    token: str, recipe: Callable[[str], Path], tmp_path: Path, singbuild: Build, builder: Builder
) -> None:
    path = recipe("Bootstrap: busybox\n%post\n    cat /run/secrets/token; sleep 60\n")
    words: list[str | Path] = ["--no-cache", token, path, "a.img"]
    assert killed_in("post", signal.SIGKILL, words, tmp_path, builder=builder) == -9
    scratch = tmp_path / "scratch"
    assert [*scratch.iterdir()]
    subprocess.run(["sync", "-f", scratch], check=True)
    if builder.container:  # its kernel ended everything at once: the next build sweeps
        assert {place.stat().st_mode & 0o777 for place in scratch.iterdir()} == {0o700}
        assert singbuild("--no-cache", recipe("Bootstrap: busybox\n"), "a.img").returncode == 0
    assert subprocess.run(["grep", "-rqF", VALUE, scratch]).returncode == 1


WRONG = {
    "token": "Say --secret id=NAME,src=FILE",
    "id=../token,src=/etc/hostname": "Say --secret",
    "id=token,src=none.txt": "No such file",
    "id=token,env=NOT_SET_AT_ALL": "id=token: the variable that env= names is not set",
    "id=token,src=/dev/null": "is empty",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_no_secret_is_refused(
    words: str, recipe: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    done = singbuild("--secret", words, recipe("Bootstrap: busybox\n"), "a.img")
    assert done.returncode == 2
    assert WRONG[words] in done.stderr
    nothing_left()


def test_an_ordinary_users_secret(user: User) -> None:
    user.env["TOKEN"] = VALUE
    process = user.start("--secret=id=token,env=TOKEN", "-", "a.img")
    out, output = process.communicate(USES)
    assert process.returncode == 0, output
    assert "the value is ***" in out
    assert traces(user.directory) == []
    process = user.start("-F", "--secret=id=token,env=TOKEN", "-", "a.img")
    output = process.communicate(f"Bootstrap: busybox\n%post\n{LEAKS['/moved/token']}\n")[1]
    assert process.returncode == 7
    assert "/moved/token" in output


UNMOUNTED = """
import io, os, sys
from pathlib import Path
from singbuild.console.display import Console
from singbuild.tree import secrets
from singbuild.tree.rootfs import Rootfs
root = Path(sys.argv[1])
given = secrets.read(["id=token,env=TOKEN"])
with secrets.readable(Rootfs(root, Console(io.StringIO())), given):
    file = root / "run/secrets/token"
    assert not os.path.ismount(root / "run/secrets")
    assert (file.read_bytes(), file.stat().st_mode) == (given[0].value, 0o100400)
    os.rename(root / "run", root / "elsewhere")
    os.symlink("/etc", root / "run")
assert os.listdir(root / "elsewhere/secrets") == []
"""


def test_where_nothing_may_be_mounted_the_files_go_wherever_they_were_moved(
    tmp_path: Path, token: str
) -> None:
    argv = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable]
    subprocess.run([*argv, "-c", UNMOUNTED, tmp_path], check=True, cwd=ROOT, env=os.environ)
