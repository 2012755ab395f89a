"""Where the launcher starts Python; -I leaves the package's directory out of sys.path."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__) + "/..")  # not normalised: links may lead here

from singrun.cli import main

main()
