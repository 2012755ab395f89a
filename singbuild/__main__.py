"""``python -m singbuild``."""

from singbuild.cli.main import main

main()
