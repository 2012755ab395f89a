"""Each module, in a Python that has imported nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.test_architecture import IMPORTABLE

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", IMPORTABLE)
def test_every_module_imports_alone_without_warnings(name: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", f"import {name}"], check=True)
