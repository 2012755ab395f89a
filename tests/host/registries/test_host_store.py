"""A download trusts what the host's other programs trust, without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.docker_source import quick, secure
from tests.bench.singrun_images import ROOT
from tests.unit.test_docker_credentials import hashed

__all__ = ["quick", "secure"]
pytestmark = [pytest.mark.root, pytest.mark.root_itself("it mounts another store of certificates")]
FETCH = """
import sys
from pathlib import Path
from singbuild.download import fetch
from singbuild.testing.engine import Recorder
fetch(sys.argv[1], Path(sys.argv[2]), report=Recorder())
"""


@pytest.mark.parametrize("form", ["hashed", "bundle"])
def test_the_hosts_store_counts_and_is_all_that_counts(
    secure: tuple[str, Path], tmp_path: Path, form: str
) -> None:
    """form: how the host keeps authorities; a bundle alone is of no use to OpenSSL's defaults."""
    name, cert = secure
    store = hashed(cert, tmp_path / "store")
    if form == "bundle":
        (store / "ca-certificates.crt").write_bytes(cert.read_bytes())
        next(store.glob("*.0")).unlink()
    (tmp_path / "empty").mkdir()
    script = 'mount --bind "$1" /etc/ssl/certs && shift && exec "$@"'

    def fetched(authorities: Path) -> subprocess.CompletedProcess[str]:
        argv = ["unshare", "-m", "sh", "-c", script, "-", str(authorities), sys.executable]
        argv += ["-c", FETCH, f"https://{name}/", str(tmp_path / "files")]
        return subprocess.run(
            argv, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
        )

    done = fetched(store)
    assert done.returncode == 0, done.stderr
    assert "no secure connection" in fetched(tmp_path / "empty").stderr
