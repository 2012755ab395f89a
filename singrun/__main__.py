"""Where the launcher starts Python; -I leaves the package's directory out of sys.path."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from singrun.cli import main

main()
