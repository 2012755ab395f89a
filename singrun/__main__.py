"""Where the launcher starts Python; -I leaves the package's directory out of sys.path."""

import gc
import os
import sys

gc.disable()  # we live for milliseconds; to look for garbage costs one of them
directory = os.path.dirname(__file__)
sys.path.insert(0, directory + "/..")  # not normalised: links may lead here

from singrun import bytecode  # noqa: E402  the path comes first

is_installed = bytecode.install(directory)

from singrun.cli import main  # noqa: E402  imports the rest, if that is not there by now

if not is_installed:
    bytecode.write(directory)
main()
