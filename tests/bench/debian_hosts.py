"""Other releases of Debian as hosts: their root, this kernel, a private mount namespace.

A root is made once by debootstrap, from the mirror that this machine's own apt is configured for,
and lies in a cache directory from then on. Who enters it gets a real pivot_root(2), for in a
chroot the kernel refuses user namespaces. It is read-only; what has to be written is in memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

USER = "ada"
_UID = 4711
_PACKAGES = (
    *("python3", "python3-venv", "make", "fuse2fs", "squashfuse", "fuse-overlayfs"),
    *("squashfs-tools", "e2fsprogs", "uidmap", "busybox-static", "ca-certificates", "procps"),
)
# Without what a minimal container lacks as well: no program that mounts or makes file systems.
_MINIMAL = ("python3",)
# What images are exchanged with: the programs of others, of today.
_PEERS = ("apptainer", "siftool", "cosign", "skopeo", "gpg", "openssh-client")
SUITES = {
    "bullseye": ("bullseye", _PACKAGES),
    "bookworm": ("bookworm", _PACKAGES),
    "trixie": ("trixie", _PACKAGES),
    "sid": ("sid", _PACKAGES),
    "minimal": ("trixie", _MINIMAL),
    "peers": ("sid", (*_PACKAGES, *_PEERS)),
}
# Of this machine: its certificates, and where pip is told to look for packages.
OF_THIS_MACHINE = ("/etc/ssl/certs", "/etc/pip.conf", "/etc/resolv.conf", "/etc/hosts", "/opt")
# $1: the root. $2: what is shown at /src, $3: the directory to go to, $4: who shall run the rest.
_ENTER = """
set -eu
root=$1 source=$2 place=$3 user=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for each in /proc /sys /dev; do mount --rbind "$each" "$root$each"; done
for each in /tmp /var/tmp /home /run /root; do mount -t tmpfs -o mode=1777 none "$root$each"; done
mkdir -m 700 "$root/home/ada"
chown 4711:4711 "$root/home/ada"
mount --rbind "$source" "$root/src"
for each in OF_THIS_MACHINE; do
    [ ! -e "$each" ] || mount --rbind "$(readlink -f "$each")" "$root$each"
done
cd "$root"
pivot_root . run
umount -l /run
cd "$place"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
[ "$user" = root ] || exec setpriv --reuid 4711 --regid 4711 --clear-groups "$@"
exec "$@"
""".replace("OF_THIS_MACHINE", " ".join(OF_THIS_MACHINE))


def cache() -> Path:
    """Return the directory of the roots: $SINGBUILD_TEST_HOSTS, or one of the user's cache."""
    default = Path.home() / ".cache/singbuild-tests/hosts"
    return Path(os.environ.get("SINGBUILD_TEST_HOSTS", default))


def root(name: str) -> Path:
    """Return the root of one of SUITES, which is made if it is not there."""
    place = cache() / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _make(name, place)
    return place


def _make(name: str, place: Path) -> None:
    suite, packages = SUITES[name]
    new = place.with_name(f"{name}.new")
    shutil.rmtree(new, ignore_errors=True)
    include = f"--include={','.join(packages)}"
    words = ["debootstrap", "--variant=minbase", include, suite, str(new), mirror()]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    if name == "minimal":
        purge = ["dpkg", "--purge", "--force-all", "e2fsprogs"]
        subprocess.run(["chroot", new, *purge], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["chroot", new, "useradd", "-m", "-u", str(_UID), USER], check=True)
    (new / "src").mkdir()
    for each in map(Path, OF_THIS_MACHINE):
        point = new / str(each).lstrip("/")
        if each.is_dir():
            point.mkdir(parents=True, exist_ok=True)
        elif each.exists() and not point.exists():
            point.touch()
    new.rename(place)


def mirror() -> str:
    """Return the mirror that apt of this machine takes Debian from."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    archives = [line for line in lines if line.rstrip("/").endswith("/debian")]
    assert archives, "apt of this machine is configured for no mirror of Debian"
    return archives[0]


def call(
    host: Path, *words: str | Path, source: Path, user: str = "root", cwd: str = "/", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on the host whose root ``host`` is. source: seen there at /src."""
    home = {"root": "/root", USER: f"/home/{USER}"}[user]
    entering = entered(host, *words, source=source, user=user, cwd=cwd)
    return _run(entering, {"HOME": home, "USER": user} | more)


def entered(
    host: Path, *words: str | Path, source: Path, user: str = "root", cwd: str = "/"
) -> list[str | Path]:
    """Return the command that runs another there, as ``call`` does."""
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "enter"]
    return [*enter, host, source, cwd, user, *words]


def _run(
    words: Sequence[str | Path], variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    ours = ("PIP_", "SINGBUILD_TEST_")
    passed = {name: value for name, value in os.environ.items() if name.startswith(ours)}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | passed | dict(variables)
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
