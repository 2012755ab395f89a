"""The digest of a large file, computed beside other work."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

_PIECE = 4 << 20  # bytes; after each, the thread may wait 5 ms for the GIL that an import has


class FileDigest(threading.Thread):
    """Computes a file's SHA-256 from now on; a daemon, so that Ctrl-C need not wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self._total = hashlib.sha256()
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Read the file to its end."""
        try:
            with self.path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    self._total.update(piece)
        except BaseException as error:
            self._error = error

    def is_known(self) -> bool:
        """Whether result() would not wait."""
        return not self.is_alive()

    def result(self) -> str:
        """Wait for the digest, in hex. Raises OSError."""
        self.join()
        if self._error:
            raise self._error
        return self._total.hexdigest()
