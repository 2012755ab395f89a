"""``python -m singbuild``. bin/singularity says by the first word that its words follow."""

import sys

if sys.argv[1:] and sys.argv[1].startswith("--spelling="):
    from singbuild.singularity.main import main
else:
    from singbuild.cli.main import main

main()
