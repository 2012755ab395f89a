"""What any backend does, by singbuild's own suite; executed beside the installed plugin."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from singbuild.testing import BackendConformance, Engine


def archive(where: Path) -> Path:
    """Write a root file system with a shell and a setuid program."""
    busybox = Path(shutil.which("busybox") or pytest.skip("needs a static busybox")).read_bytes()
    with tarfile.open(where, "w:gz") as tar:
        for name, mode in (("bin/busybox", 0o755), ("bin/elevated", 0o4755)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(busybox), mode
            tar.addfile(entry, io.BytesIO(busybox))
        for name in ("sh", "cat", "sleep"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return where


class TestTarball(BackendConformance):
    name = "tarball"
    bad = (
        "URL: /no/such/file",
        "URL: http://127.0.0.1:9/rootfs.tar",
        "SHA256: 12",
        "SHA256: " + "0" * 64,
        "URL: /etc/passwd",
    )

    @pytest.fixture
    def header(self, singbuild_engine: Engine) -> str:
        return f"URL: {archive(singbuild_engine.place / 'rootfs.tar.gz')}"
