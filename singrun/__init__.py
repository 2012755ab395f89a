"""The runtime: enters an image as the calling user and executes a program in place of itself."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 9):  # noqa: UP036  whatever else is imported may not even compile
    sys.stderr.write("singrun: Python 3.9 or later is needed; this is " + sys.version[:6] + "\n")
    sys.exit(255)
