"""Runs a script in a Linux of its own: Debian's user-mode-linux, which is an ordinary program.

systemd is its process 1, so cgroups of version 2 are delegated to users there, whatever the host
has. Its /usr, its users and one directory are the host's, by hostfs; all else lies in its memory.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.host import PATIENCE

KERNEL = shutil.which("linux.uml")
_HAVE = all(map(Path.exists, map(Path, ("/lib/systemd/systemd", "/usr/bin/systemd-run"))))
IS_THERE = bool(KERNEL) and _HAVE
# DIRECTORY is replaced. No user namespace is made in a chroot, so the new root moves to /.
_INIT = """\
#!/bin/sh
set -e
mount -t tmpfs tmpfs /mnt
cd /mnt
mkdir -p etc usr var/tmp var/lib var/log tmp run proc sys dev root home mnt .DIRECTORY
chmod 1777 tmp var/tmp
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
cp -a /etc/. etc
rm -rf ./etc/systemd/system/*.wants
mount --bind /usr usr
mount --bind DIRECTORY .DIRECTORY
cat >etc/systemd/system/uml-script.service <<UNIT
[Unit]
Requires=basic.target dbus.service
After=basic.target dbus.service
[Service]
Type=oneshot
StandardOutput=file:DIRECTORY/uml-out
StandardError=file:DIRECTORY/uml-out
ExecStart=/bin/sh -eu DIRECTORY/uml-script
ExecStopPost=/bin/sh -c 'echo \\$EXIT_STATUS >DIRECTORY/uml-status; echo o >/proc/sysrq-trigger'
UNIT
mount --move . /
exec chroot . /lib/systemd/systemd --unit=uml-script.service
"""


def run(script: str, directory: Path, *, memory: str = "512M", seconds: float = 240) -> str:
    """Run a shell script as root there; return all that it prints. It must succeed.

    directory: for the script and its outcome, without blanks in its path.
    """
    assert KERNEL, "user-mode-linux is not installed"
    out, status, init = (directory / f"uml-{name}" for name in ("out", "status", "init"))
    (directory / "uml-script").write_text(script)
    init.write_text(_INIT.replace("DIRECTORY", shlex.quote(str(directory))))
    init.chmod(0o755)
    root = ("rootfstype=hostfs", "hostfs=/", "rw", f"init={init}")
    console = ("con=null", "con0=null,fd:1", "quiet", f"uml_dir={directory}", "umid=uml")
    done = subprocess.run(
        [KERNEL, f"mem={memory}", *root, *console],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds * PATIENCE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(directory)},
        check=False,
    )
    if b"ptrace set fp regs failed" in done.stdout:
        pytest.skip("the processor has registers that user-mode-linux does not know")
    output = out.read_text(errors="replace") if out.exists() else ""
    ended = status.read_text().strip() if status.exists() else "not at all"
    assert ended == "0", f"{output}\nended: {ended}\n{done.stdout.decode(errors='replace')[-4000:]}"
    return output
