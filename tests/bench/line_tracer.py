"""Marks executed lines in a file that all processes share; see line_coverage.py.

Becomes a module of Python's `encodings`: it imports what is there before any path is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any


def start(path: str, starts: dict[str, int]) -> None:
    """Trace this process and those that it forks. starts: where a source's bytes begin."""
    import posix
    import sys

    try:
        from mmap import mmap

        fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
    except (ImportError, OSError):
        return  # a Python of another root directory
    executed = mmap(fd, 0)
    posix.close(fd)
    files: dict[str, int | None] = {}
    tracers: dict[int, tuple[CodeType, Any]] = {}  # by id: a code's hash and equality are slow

    def begin(frame: FrameType, _event: str, _: Any) -> Any:
        """Return what traces the lines of a frame, nothing where all of them are known."""
        code = frame.f_code
        name = code.co_filename
        try:
            place = files[name]
        except KeyError:
            place = files[name] = _place(name, starts)
        if place is None:
            if name.endswith("/threading.py"):
                frame.f_globals["_trace_hook"] = begin  # threading.settrace
            return None
        try:
            return tracers[id(code)][1]
        except KeyError:
            tracers[id(code)] = code, _tracer(code, place, executed)
            return tracers[id(code)][1]

    sys.settrace(begin)


def _place(name: str, starts: dict[str, int]) -> int | None:
    """Where the bytes of a source begin, wherever it is installed."""
    words = name.split("/")
    tails = ("/".join(words[-count:]) for count in range(len(words), 0, -1))
    return next((starts[tail] for tail in tails if tail in starts), None)


def _tracer(code: CodeType, place: int, executed: Any) -> Any:
    lines = {line for _, _, line in code.co_lines() if line and not executed[place + line]}
    if len(lines) > 1:
        lines.discard(code.co_firstlineno)  # "def": no line of the function's own

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            executed[place + frame.f_lineno] = 1
            lines.discard(frame.f_lineno)
            if not lines:
                frame.f_trace_lines = False
        return trace

    return trace if lines else None
