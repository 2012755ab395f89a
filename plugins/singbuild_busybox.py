"""Bootstrap: busybox. A whole root file system from one static binary."""

from __future__ import annotations

import os
import re
from pathlib import Path

from singbuild_busybox_binary import LARGEST, find_binary

from singbuild import Keyword, Needs, Pins, Rootfs, Source, SourceError, hookimpl
from singbuild.download import stored

DIRECTORIES = {
    **dict.fromkeys(("/bin", "/dev", "/etc", "/home", "/proc", "/run", "/sbin", "/sys"), 0o755),
    **dict.fromkeys(("/usr/bin", "/usr/sbin", "/var/log"), 0o755),
    **dict.fromkeys(("/tmp", "/var/tmp"), 0o1777),  # noqa: S108 - of the image
    "/root": 0o700,
}
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "shells": "/bin/sh\n/bin/ash\n",
}
APPLET = re.compile(r"(?:usr/)?s?bin/[^/\s]+")


@hookimpl
def singbuild_needs() -> Needs:
    """Two keywords, both optional; no host program is needed for certain."""
    return Needs(
        keywords=(
            Keyword(
                "MirrorURL",
                "a static busybox, or a Debian package that holds one: an http(s) URL, a path, "
                "or the name of a package that the host's apt knows",
            ),
            Keyword("SHA256", "digest of the file that MirrorURL names, 64 hexadecimal digits"),
        )
    )


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Find the binary and check it; the cache keeps it under its digest."""
    return find_binary(source)


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Write the binary, a link for each of its applets, and the few files that programs expect."""
    for directory, mode in DIRECTORIES.items():
        rootfs.mkdir(directory, mode)
    for name, text in ETC.items():
        rootfs.write(f"/etc/{name}", text)
    rootfs.write("/bin/busybox", stored(source.cache, pins["sha256"], LARGEST), 0o755)
    applets: list[str] = []
    rootfs.run(["/bin/busybox", "--list-full"], on_line=applets.append)
    _link(rootfs, [name for name in applets if APPLET.fullmatch(name)])
    return True


def _link(rootfs: Rootfs, applets: list[str]) -> None:
    if "bin/sh" not in applets:
        raise SourceError(
            "this busybox has no shell",
            why=f"`busybox --list-full` names {len(applets)} programs, but not bin/sh",
            remedy="Use one that is configured with ash and with its installer.",
        )
    for name in applets:
        if name != "bin/busybox":
            rootfs.symlink(f"/{name}", os.path.relpath("bin/busybox", Path(name).parent))
    rootfs.report.line(f"linked {len(applets)} programs to /bin/busybox")
