"""A dnf inside the image: %post installs further packages, and both sides' rpm know of them.

Its package is made of the host's own dnf, with the Python and the libraries that it loads.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import rpm_repository
from tests.bench.builds import SINGBUILD, Build
from tests.bench.rpm_repository import Maker

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not rpm_repository.have_programs(), reason="needs dnf and rpm's tools"),
]
PARTS = (
    *("dnf", "dnf-data", "python3-dnf", "python3-hawkey", "python3-libdnf", "python3-libcomps"),
    *("python3-gpg", "python3-rpm", "rpm", "rpm-common", "libdnf2-common"),
    *("python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
)
NOT_NEEDED = re.compile(
    "/usr/share/(doc|man|locale|bash-completion|lintian)/|/var/|/etc/(cron|init)"
)
DNF = r"""
Requires: rpm
%global _binary_payload w1.gzdio
%description
%{summary}
%install
while read -r file; do
    mkdir -p "%{buildroot}$(dirname "$file")"
    cp -L "$file" "%{buildroot}$file"
done < LIST
%files
/*
"""
RECIPE = """\
BootStrap: dnf
OSVersion: 7
MirrorURL: {url}
GPGKey: {url}/RPM-GPG-KEY-site
Include: dnf
%post
    /usr/bin/rpm -qa > /before
    mkdir -p /etc/yum.repos.d
    printf '%s\\n' '[mini]' name=mini baseurl={url} gpgcheck=1 gpgkey={url}/RPM-GPG-KEY-site \\
        > /etc/yum.repos.d/mini.repo
    dnf -y install hello
    /usr/bin/rpm -V hello
    if dnf -y install wanting; then exit 1; fi
%test
    hello
"""


def dnf_itself(base: Path) -> str:
    """The spec of a package that holds the host's dnf, with all that it loads."""
    listed = subprocess.check_output(["dpkg", "-L", *PARTS], text=True).splitlines()
    files = {name for name in listed if Path(name).is_file() and not NOT_NEEDED.match(name)}
    elves = [name for name in files if Path(name).read_bytes().startswith(b"\x7fELF")]
    loaded = subprocess.run(["ldd", *elves], capture_output=True, text=True, check=False).stdout
    files.update(re.findall(r"(/\S+) \(0x", loaded))
    (base / "dnf.files").write_text("".join(f"{name}\n" for name in sorted(files)))
    return DNF.replace("LIST", str(base / "dnf.files"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = tmp_path_factory.mktemp("rpms")
    www = rpm_repository.make(base)
    maker = Maker(base)
    result = maker.rpm("dnf", dnf_itself(base))
    maker.sign([result], "site")
    shutil.copy(result, www)
    rpm_repository.index(www)
    with rpm_repository.served(www) as url:
        yield url


def test_dnf_in_post_installs_what_both_sides_know(
    url: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    done = singbuild("build", recipe(RECIPE.format(url=url)), "a.img")
    assert done.returncode == 0, done.stderr + done.stdout
    image = tmp_path / "a.img"
    singrun = [*SINGBUILD[:1], "-m", "singrun", "exec", str(image)]
    before = subprocess.check_output([*singrun, "cat", "/before"], text=True).split()
    after = subprocess.check_output([*singrun, "/usr/bin/rpm", "-qa"], text=True).split()
    assert set(after) - set(before) == {"hello-7-1.x86_64"}
    assert "dnf-7-1.x86_64" in before
    packages = json.loads(singbuild("inspect", "--sbom", image).stdout)["packages"]
    assert {"hello", "dnf"} <= {each["name"] for each in packages}
