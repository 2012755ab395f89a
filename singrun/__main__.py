"""Where the launcher starts Python; -I leaves the package's directory out of sys.path.

Python compiles this file anew at each start, so what can be in bytecode.py is there.
"""

import gc
import sys
from marshal import loads
from posix import stat

gc.disable()  # we live for milliseconds; to look for garbage costs one of them
directory = __file__.rpartition("/")[0]
# Behind the standard library, which is looked through first; not normalised: links may lead here.
sys.path.append(directory + "/..")
# With hexversion: betas of one version have one cache_tag, and not always one bytecode.
tag = f"{sys.implementation.cache_tag}-{sys.hexversion:x}"
path = f"{directory}/__pycache__/singrun.{tag}.code"
own = {"__name__": "singrun.bytecode"}
try:
    with open(path, "rb", buffering=0) as file:
        extension, codes = loads(file.read())  # noqa: S302  as Python does with a .pyc
    time, size, code = codes["bytecode.py"]
    status = stat(f"{directory}/bytecode.py")
    if (status.st_mtime_ns, status.st_size) != (time, size):
        raise ValueError  # an earlier version's, whose start() may take something else
    exec(code, own)  # noqa: S102  to import it would cost 0.5 ms
except (OSError, EOFError, ValueError, TypeError, KeyError):  # there is none yet, or a damaged one
    from singrun import bytecode

    bytecode.start(directory, path, "", {})
own["start"](directory, path, extension, codes)  # type: ignore[operator]  # a function
