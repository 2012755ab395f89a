"""Users who exist in LDAP only: a real slapd on loopback, and a host whose name services ask it.

The host's own files stay as they are: nsswitch.conf and nslcd's are laid over
in a mount namespace, and who shall see the users is started in there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench import singrun_images as images
from tests.bench.host import wait_until

PROGRAMS = ("slapd", "slapadd", "nslcd")
_SUFFIX = "dc=example,dc=org"
_SERVER = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {place}/slapd.pid
database mdb
suffix "{suffix}"
directory {place}/data
"""
_CLIENT = "uid nslcd\ngid nslcd\nuri ldap://127.0.0.1:{port}/\nbase {suffix}\n"
_SWITCH = "passwd: files ldap\ngroup: files ldap\nshadow: files\nhosts: files\n"
_ENTRIES = """\
dn: {suffix}
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: uid={name},{suffix}
objectClass: account
objectClass: posixAccount
uid: {name}
cn: {name}
gecos: Of the Directory
uidNumber: {uid}
gidNumber: {uid}
homeDirectory: {home}
loginShell: /bin/ls

dn: cn={name}s,{suffix}
objectClass: posixGroup
cn: {name}s
gidNumber: {uid}

dn: cn=astronomers,{suffix}
objectClass: posixGroup
cn: astronomers
gidNumber: {second}
memberUid: {name}
"""


class Directory:
    """The mount namespace (of the process ``holder``) in which ``name`` is a user."""

    def __init__(self, holder: int, name: str, home: Path) -> None:
        self._holder, self.name, self.home = holder, name, home

    def call(self, *words: images.Word, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, after a login; ``more`` variables besides."""
        become = ["setpriv", "--reuid", self.name, "--regid", f"{self.name}s", "--init-groups"]
        command = ["nsenter", "-t", str(self._holder), "-m", *become, *words]
        plain = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.home)}
        return subprocess.run(
            command, env=plain | more, cwd="/", capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def directory(place: Path, uid: int = 70123) -> Iterator[Directory]:
    """Serve one user and two groups from ``place``; everything ends with the block."""
    name, home, port = f"ldap{os.getpid()}", place / "home", _free_port()
    values = {"place": place, "suffix": _SUFFIX, "name": name, "home": home, "port": port}
    for where in (home, place / "data"):
        where.mkdir()
    os.chown(home, uid, uid)
    (place / "slapd.conf").write_text(_SERVER.format(**values))
    (place / "nslcd.conf").write_text(_CLIENT.format(**values))
    (place / "nsswitch.conf").write_text(_SWITCH)
    entries = _ENTRIES.format(**values, uid=uid, second=uid + 1)
    load: list[str | Path] = ["slapadd", "-f", place / "slapd.conf"]
    subprocess.run(load, input=entries, text=True, check=True, capture_output=True)
    server: list[str | Path] = ["slapd", "-d", "0", "-f", place / "slapd.conf"]
    server += ["-h", f"ldap://127.0.0.1:{port}/"]
    with _running(server), _running(_services(place)) as holder:
        users = Directory(holder, name, home)
        wait_until(lambda: users.call("true").returncode == 0)
        yield users
    shutil.rmtree(f"/var/tmp/singrun-{uid}", ignore_errors=True)


def _services(place: Path) -> list[str | Path]:
    """Return the command that becomes nslcd where the client's files are laid over."""
    script = (
        f"mount --bind {place}/nsswitch.conf /etc/nsswitch.conf &&"
        f" mount --bind {place}/nslcd.conf /etc/nslcd.conf &&"
        " mount -t tmpfs none /run && mkdir -m 1777 /run/nslcd && exec nslcd -n"
    )
    return ["unshare", "-m", "sh", "-c", script]


@contextlib.contextmanager
def _running(command: list[str | Path]) -> Iterator[int]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            yield child.pid
        finally:
            child.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
