"""A site's apptainer.conf or singularity.conf, where there is no singrun.conf."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bench.singrun_images import Bench

pytestmark = pytest.mark.root

# Directives as Apptainer 1.4 and Singularity 2.x and 3.x ship them, some changed.
CONF = """\
# comment
allow setuid = yes
max loop devices = 256
allow pid ns = yes
config passwd = yes
config resolv_conf = no
mount proc = yes
mount dev = minimal
mount devpts = yes
mount hostfs = no
bind path = /etc/hosts
bind path = DATA:/from-the-site
user bind control = yes
enable fusemount = yes
enable overlay = driver
enable underlay = preferred
sessiondir max size = 64
allow container sif = yes
always use nv = no
shared loop devices = no
"""
SCRIPT = """\
mount -t overlay -o lowerdir="$1:/etc" none /etc
shift
exec "$@"
"""


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_it_is_obeyed_and_what_is_not_is_told_by_the_doctor(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    data = bench.directory / f"data-{name}"
    data.mkdir()
    (data / "file").write_text("site's\n")
    conf = tmp_path / "etc" / name / f"{name}.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(CONF.replace("DATA", str(data)))
    subprocess.run(["chmod", "-R", "a+rX", tmp_path], check=True)
    user = bench.people["user"]

    def on_that_site(*words: str) -> subprocess.CompletedProcess[str]:
        inner = [str(word) for word in user.words(bench.launcher, *words)]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", tmp_path / "etc", *inner],
            capture_output=True,
            text=True,
            env=user.environment(),
            cwd=user.home,
        )

    image = str(bench.image)
    done = on_that_site("exec", image, "sh", "-c", "cat /from-the-site/file; ls /dev | wc -l")
    assert (done.returncode, done.stderr) == (0, "")
    text, devices = done.stdout.splitlines()
    assert text == "site's"
    assert int(devices) < 25  # those of mount dev = minimal
    output = on_that_site("doctor").stdout
    (line,) = [each for each in output.splitlines() if "site's file" in each]
    assert f"/etc/{name}/{name}.conf" in line
    for idle in ("enable underlay", "sessiondir max size", "allow container sif"):
        assert idle in line
    assert "always use nv" not in line
    assert "bind path" not in line
    (tmp_path / "etc/singrun.conf").write_text("mount dev = yes\n")
    (tmp_path / "etc/singrun.conf").chmod(0o644)
    done = on_that_site("exec", image, "sh", "-c", "ls /from-the-site")
    assert done.returncode != 0  # ours counts, alone
