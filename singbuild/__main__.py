"""``python -m singbuild``."""

from singbuild.cli import main

main()
