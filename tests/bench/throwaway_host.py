"""A host whose changes are thrown away: the root of this machine, or of another, and a layer.

Who enters it gets a mount namespace with a real pivot_root(2), for in a chroot the kernel refuses
user namespaces, and a PID namespace that ends with the command. What is written below
/home, /tmp and /var/tmp lies on the disk, everything else in memory, until the host goes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from singrun import syscalls
from tests.bench.host import shared_directory

USER, _UID = "you", 61616
_PASSED = ("PIP_", "SSL_", "LANG", "TERM")
# $1: the host's directory. $2: the root below. $3: what is seen of this machine at its own name.
# $4: who. $5: the search path.
_ENTER = """
set -eu
place=$1 lower=$2 seen=$3 who=$4 path=$5
shift 5
root=$place/root layer=$place/layer
mount -t overlay -o "lowerdir=$lower,upperdir=$layer/upper,workdir=$layer/work" none "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 none "$root/run"
mount --bind "$place/home" "$root/home"
mount --bind "$place/tmp" "$root/tmp"
mount --bind "$place/var" "$root/var/tmp"
for each in $seen; do
    [ -e "$each" ] || continue
    [ ! -d "$each" ] || mkdir -p "$root$each"
    [ -e "$root$each" ] || touch "$root$each"
    mount --rbind "$(readlink -f "$each")" "$root$each"
done
cd "$root"
mkdir run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
export PATH="$path"
if [ "$who" = root ]; then
    export HOME=/root
    cd /root
    exec "$@"
fi
export HOME="/home/$who" USER="$who" SHELL=/bin/bash
cd "$HOME"
exec setpriv --reuid "$who" --regid "$who" --init-groups "$@"
"""


class Host:
    """A host with an ordinary user called "you". programs: a directory of the search path, last."""

    def __init__(self, place: Path, lower: Path, visible: Sequence[str], programs: str) -> None:
        self.place, self.lower, self.visible = place, lower, " ".join(visible)
        self.path = f"/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:{programs}".rstrip(":")
        self.run("useradd", "-m", "-s", "/bin/bash", "-u", str(_UID), USER)

    def words(self, *words: str, who: str) -> list[str]:
        """Return a command line that executes ``words`` here."""
        path = self.path if who == "root" else f"/home/{who}/.local/bin:{self.path}"
        new = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "enter"]
        return [*new, str(self.place), str(self.lower), self.visible, who, path, *words]

    def run(self, *words: str, who: str = "root") -> str:
        """Execute a command that must succeed; what it prints, errors too."""
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        done = subprocess.run(
            self.words(*words, who=who),
            env=passed | {"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@contextmanager
def throwaway_host(
    lower: Path = Path("/"), visible: Sequence[str] = (), programs: str = ""
) -> Iterator[Host]:
    """Make a host for the time of a with-block. visible: files and directories of this machine."""
    with shared_directory() as place:
        for name in ("layer", "root", "home", "tmp", "var"):
            (place / name).mkdir()
            (place / name).chmod(0o1777 if name in ("tmp", "var") else 0o755)
        syscalls.mount("none", str(place / "layer"), "tmpfs", 0, "mode=755")
        try:
            for name in ("upper", "work"):
                (place / "layer" / name).mkdir(mode=0o755)
            yield Host(place, lower, visible, programs)
        finally:
            syscalls.umount2(str(place / "layer"), syscalls.MNT_DETACH)
