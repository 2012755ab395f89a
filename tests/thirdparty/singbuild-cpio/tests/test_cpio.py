"""What any format does, by singbuild's own suite; executed beside the installed plugin."""

from singbuild.testing import FormatConformance


class TestCpio(FormatConformance):
    name = "cpio"
    holds_attributes = False
