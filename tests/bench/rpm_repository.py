"""A small Enterprise Linux, made of real RPMs: built, signed, indexed, served on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.bench.once import once

PROGRAMS = ("rpmbuild", "rpmsign", "createrepo_c", "dnf", "gpg", "busybox")
COMMON = """\
%global __os_install_post %{nil}
%global debug_package %{nil}
%global __requires_exclude ^.*$
%global __provides_exclude ^.*$
%global _build_id_links none
Name: NAME
Version: 7
Release: 1
Summary: NAME
License: MIT
"""
SPECS = {
    "setup": r"""
%description
%{summary}
%install
mkdir -p %{buildroot}/etc
printf 'root:x:0:0:root:/root:/bin/sh\nlp:x:4:7:lp:/:/bin/false\n' > %{buildroot}/etc/passwd
printf 'root:x:0:\nlp:x:7:\n' > %{buildroot}/etc/group
%files
/etc/passwd
/etc/group
""",
    "filesystem": r"""
Requires: setup
%description
%{summary}
%install
cd %{buildroot}; mkdir -p bin dev etc proc root sys tmp usr/bin usr/sbin var/log
%files
%dir /bin
%dir /dev
%attr(555,root,root) %dir /proc
%attr(550,root,root) %dir /root
%attr(555,root,root) %dir /sys
%attr(1777,root,root) %dir /tmp
%dir /usr/bin
%dir /usr/sbin
%dir /var/log
""",
    "mini-release": r"""
Requires: filesystem
Provides: system-release = 7
%description
%{summary}
%install
mkdir -p %{buildroot}/etc
echo 'Mini Linux release 7' > %{buildroot}/etc/redhat-release
echo 'ID=mini' > %{buildroot}/etc/os-release
%files
/etc/redhat-release
/etc/os-release
""",
    "bash": r"""
Requires: filesystem
Provides: /bin/sh
%description
%{summary}
%install
mkdir -p %{buildroot}/bin
cp "$(command -v busybox)" %{buildroot}/bin/busybox
ln -s busybox %{buildroot}/bin/sh
%files
/bin/busybox
/bin/sh
""",
    "coreutils": r"""
Requires: /bin/sh
%description
%{summary}
%install
mkdir -p %{buildroot}/bin
for applet in cat cp echo grep id locale ls mkdir rm test true wc; do
    ln -s busybox %{buildroot}/bin/$applet
done
%files
/bin/*
""",
    "hello": r"""
Requires: coreutils
Requires(post): coreutils, mini-release
%description
%{summary}
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc
printf '#!/bin/sh\necho hello\n' > %{buildroot}/usr/bin/hello
cp "$(command -v busybox)" %{buildroot}/usr/bin/elevated
cp "$(command -v busybox)" %{buildroot}/usr/bin/capable
echo plain > %{buildroot}/etc/hello.conf
%files
%attr(755,root,root) /usr/bin/hello
%attr(4755,root,root) /usr/bin/elevated
%caps(cap_net_raw=ep) /usr/bin/capable
%attr(640,lp,lp) %config /etc/hello.conf
%post
echo gone > /dev/null
cat /etc/redhat-release /proc/self/comm > /etc/hello.made
""",
    "aaa_base": r"""
Requires: coreutils
%description
%{summary}
%install
mkdir -p %{buildroot}/etc
echo mini > %{buildroot}/etc/SuSE-brand
%files
/etc/SuSE-brand
""",
    "clash": r"""
%description
%{summary}
%install
mkdir -p %{buildroot}/usr/bin
echo another > %{buildroot}/usr/bin/hello
%files
/usr/bin/hello
""",
    "wanting": r"""
Requires: no-such-thing >= 3
%description
%{summary}
%files
""",
}
RPM = r"""
Requires: /bin/sh
%description
%{summary}
%install
for file in FILES; do
    mkdir -p "%{buildroot}$(dirname "$file")"
    cp -L "$file" "%{buildroot}$file"
done
mkdir -p %{buildroot}/etc/rpm %{buildroot}/usr/lib/sysimage/rpm
echo '%%_dbpath /usr/lib/sysimage/rpm' > %{buildroot}/etc/rpm/macros
%files
/*
"""
GROUPS = """\
<?xml version="1.0"?>
<comps><group><id>tools</id><name>Tools</name><uservisible>true</uservisible>
<packagelist><packagereq type="mandatory">hello</packagereq></packagelist></group></comps>
"""
KEY = """\
Key-Type: RSA
Key-Length: 2048
Name-Real: {0}
Name-Email: {0}@localhost
%no-protection
%commit
"""


def have_programs() -> bool:
    """Whether this host can make RPMs."""
    return all(map(shutil.which, PROGRAMS))


def key_pair(home: Path, name: str, *export: str) -> None:
    """Make a throw-away key pair in a directory of its own; export: words for gpg then."""
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch"]
    subprocess.run(
        [*gpg, "--gen-key"], input=KEY.format(name), text=True, check=True, capture_output=True
    )
    subprocess.run([*gpg, *export], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


@dataclass(frozen=True)
class Maker:
    """Builds and signs RPMs below one directory."""

    base: Path

    def rpm(self, name: str, text: str) -> Path:
        """Build one package and return its file."""
        spec = self.base / f"{name}.spec"
        spec.write_text(COMMON.replace("NAME", name) + text)
        defines = {"_topdir": self.base, "_dbpath": self.base / "db", "_rpmdir": self.base}
        argv = ["rpmbuild", "-bb", "--quiet", "--target", os.uname().machine]
        argv += [word for k, v in defines.items() for word in ("--define", f"{k} {v}")]
        subprocess.run([*argv, spec], check=True, capture_output=True)
        return next((self.base / os.uname().machine).glob(f"{name}-7-*.rpm"))

    def key(self, name: str) -> Path:
        """Make a throw-away key pair; return the file of its public half."""
        public = self.base / f"RPM-GPG-KEY-{name}"
        key_pair(self.base / name, name, "--armor", "--output", str(public), "--export")
        return public

    def sign(self, files: list[Path], name: str, **macros: str) -> None:
        """Sign packages in place. macros: more of rpm's settings."""
        home = self.base / name
        defines: dict[str, object] = {**macros}
        defines |= {"__gpg": shutil.which("gpg"), "_gpg_name": name, "_gpg_path": home}
        argv = ["rpmsign", "--addsign"]
        argv += [word for k, v in defines.items() for word in ("--define", f"{k} {v}")]
        subprocess.run([*argv, *files], check=True, capture_output=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def rpm_itself() -> str:
    """The spec of a package that holds the host's own rpm, with all that it loads."""
    programs = ["/usr/bin/rpm", "/usr/bin/rpmkeys"]
    loaded = subprocess.check_output(["ldd", programs[0]], text=True).split()
    settings = [f"/usr/lib/rpm/{name}" for name in ("macros", "rpmpopt-*", "rpmrc")]
    return RPM.replace(
        "FILES", " ".join([*programs, *(x for x in loaded if x[0] == "/"), *settings])
    )


def make(base: Path) -> Path:
    """Copy the run's repository, keys and all, to ``base``; return the directory that is served."""
    shutil.copytree(once("rpms", _make), base, dirs_exist_ok=True)
    return base / "www"


def _make(base: Path) -> None:
    """Build the packages and the keys, sign, index."""
    maker = Maker(base)
    www = base / "www"
    www.mkdir()
    files = [maker.rpm(name, text) for name, text in (SPECS | {"rpm": rpm_itself()}).items()]
    shutil.copy(maker.key("site"), www)
    shutil.copy(maker.key("stranger"), www)
    maker.sign(files, "site")
    for file in files:
        shutil.copy(file, www)
    index(www)


def index(www: Path) -> None:
    """Index the packages in a directory."""
    groups = www / "comps.xml"
    groups.write_text(GROUPS)
    argv = ["createrepo_c", "--quiet", "--no-database", "--groupfile", str(groups), str(www)]
    subprocess.run(argv, check=True, capture_output=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        return


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory on loopback; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
