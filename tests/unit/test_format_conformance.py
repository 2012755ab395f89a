"""The conformance suite that any format has to pass, on ours."""

from __future__ import annotations

from singbuild.testing import FormatConformance


class TestExt3(FormatConformance):
    name = "ext3"


class TestSquashfs(FormatConformance):
    name = "squashfs"


class TestSif(FormatConformance):
    name = "sif"


class TestSifWithExt3(FormatConformance):
    name = "sif-ext3"


class TestDirectory(FormatConformance):
    name = "directory"
