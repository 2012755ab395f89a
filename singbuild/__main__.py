"""``python -m singbuild``. A first word --spelling=… says that bin/singularity's words follow."""

import atexit
import gc
import os
import sys

# Modules are no garbage: to look for it among them took a twentieth of a start.
gc.set_threshold(50_000, 20, 20)
statuses: list[int] = []


@atexit.register  # before all others, so it is called behind them
def end() -> None:
    """End without taking all modules apart, which took a sixth of a short command's time."""
    if statuses:
        sys.stderr.flush()
        os._exit(statuses[0])


if sys.argv[1:] and sys.argv[1].startswith("--spelling="):
    from singbuild.singularity.main import main
else:
    from singbuild.cli.main import main

try:
    main()
except SystemExit as exit_:
    if isinstance(exit_.code, int):
        statuses.append(exit_.code)
    raise
