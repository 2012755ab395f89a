"""``instance list``, ``stop`` and ``stats``, as Singularity 3 and Apptainer print them.

``instance start`` and ``instance run`` are launches, which cli.py reads like any other.
"""

import fnmatch
import json
import os
import time

from singrun import instances
from singrun.errors import RunError, UsageError, printable, say
from singrun.instances import Instance

_PAUSE = 0.5  # seconds between two readings of the time that was computed
_DIGITS = 6  # of a number of seconds: poll(2) takes milliseconds, as an int
_MEBIBYTE = 1 << 20
_REMEDY = "See: instance --help"


def explain(words: "list[str]") -> str:
    """Return what a verb of ``instance`` prints. Raises UsageError."""
    if {"-h", "--help", "help"} & {*words}:
        from singrun.verbs import manual

        return manual.text("instance")
    verbs = {"list": _list, "stop": _stop, "stats": _stats}
    if not words or words[0] not in verbs:
        why = "They are start, run, list, stop and stats."
        raise UsageError(f"There is no verb {' '.join(['instance', *words])}", why=why)
    return verbs[words[0]](words[1:])


def _list(words: "list[str]") -> str:
    flags = {"j": "json", "l": "logs", "a": "all"}
    options, names = _split_words(words, flags, {"u": "user"})
    if "user" in options:
        what, why = f"Cannot list instances of {options['user']}", "Each user finds his own alone."
        raise RunError(what, why=why, remedy="Leave -u out.")
    matching = _matching(names)
    if "json" in options:
        return _json({"instances": [_described(each) for each in matching]})
    if "logs" in options:
        rows = [["INSTANCE NAME", "PID", "LOGS"]]
        for each in matching:
            rows += [[each.name, str(each.pid), f"{each.logs}.err"], ["", "", f"{each.logs}.out"]]
        return _table(rows)
    rows = [["INSTANCE NAME", "PID", "IP", "IMAGE"]]
    return _table(rows + [[each.name, str(each.pid), "", each.image] for each in matching])


def _stop(words: "list[str]") -> str:
    values = {"s": "signal", "t": "timeout"}
    options, names = _split_words(words, {"a": "all", "F": "force"}, values)
    if bool(names) == ("all" in options):
        raise UsageError("Say which instance to stop, or --all", remedy=_REMEDY)
    patience = _seconds(options.get("timeout", "10"))
    signal = options.get("signal", "TERM").upper().removeprefix("SIG")
    if signal not in ("TERM", "15", "KILL", "9"):
        remedy = "Say TERM or KILL, or kill the process itself: instance list says its number."
        raise RunError(f"Cannot stop an instance by the signal {signal}", remedy=remedy)
    matching = _matching(names)
    if not matching:
        raise UsageError("no instance found", remedy="See: instance list")
    if "force" in options or signal in ("KILL", "9"):
        patience = 0.0
    for each in matching:
        say(f"Stopping {each.name} instance of {each.image} (PID={each.pid})", "INFO")
    instances.end(matching, patience)
    return ""


def _stats(words: "list[str]") -> str:
    options, names = _split_words(words, {"j": "json", "no-stream": "no-stream"}, {})
    matching = _matching(names)
    if not matching:
        raise UsageError("no instance found", remedy="See: instance list")
    before = {each.pid: _Usage(each.pid) for each in matching}
    time.sleep(_PAUSE)
    after = {each.pid: _Usage(each.pid) for each in matching}
    computed = {pid: (use.ticks - before[pid].ticks) for pid, use in after.items()}
    share = {pid: t / os.sysconf("SC_CLK_TCK") / _PAUSE * 100 for pid, t in computed.items()}
    if "json" in options:
        rows = [
            {"instance": i.name, "cpu_percent": round(share[i.pid], 2), **vars(after[i.pid])}
            for i in matching
        ]
        return _json({"instances": rows})
    table = [["INSTANCE NAME", "CPU USAGE", "MEM USAGE", "PIDS"]]
    for each in matching:
        memory = f"{after[each.pid].memory / _MEBIBYTE:.2f}MiB"
        table.append([each.name, f"{share[each.pid]:.2f}%", memory, str(after[each.pid].pids)])
    return _table(table)


class _Usage:
    """What the processes of an instance have taken. ticks: of the clock; memory: bytes."""

    def __init__(self, holder: int) -> None:
        self.ticks = self.memory = self.pids = 0
        namespace = _namespace(holder)
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if namespace and _namespace(pid) == namespace:
                self._add(pid)

    def _add(self, pid: int) -> None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat, open(f"/proc/{pid}/statm", "rb") as statm:
                # The name before it may hold brackets and blanks: proc(5).
                fields = stat.read().rpartition(b")")[2].split()
                pages = int(statm.read().split()[1])
        except (OSError, IndexError):  # it has just ended
            return
        self.ticks += int(fields[11]) + int(fields[12])  # proc(5): utime, stime, from state on
        self.memory += pages * os.sysconf("SC_PAGE_SIZE")
        self.pids += 1


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _matching(patterns: "list[str]") -> "list[Instance]":
    """Return the caller's instances, those that a pattern fits where there are any."""
    running = instances.running()
    if not patterns:
        return running
    return [i for i in running if any(fnmatch.fnmatchcase(i.name, p) for p in patterns)]


def _described(instance: Instance) -> "dict[str, str | int]":
    logs = {f"log{kind.title()}Path": f"{instance.logs}.{kind}" for kind in ("err", "out")}
    return {"instance": instance.name, "pid": instance.pid, "img": instance.image, "ip": "", **logs}


def _json(document: object) -> str:
    return json.dumps(document, indent="\t") + "\n"


def _table(rows: "list[list[str]]") -> str:
    """Return rows with columns four blanks apart."""
    widths = [max(map(len, column)) + 4 for column in zip(*rows)]
    lines = ("".join(f"{printable(w):{n}}" for w, n in zip(row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _split_words(
    words: "list[str]", flags: "dict[str, str]", values: "dict[str, str]"
) -> "tuple[dict[str, str], list[str]]":
    """Return options by their long names, and the other words. flags, values: letter to name."""
    set_options: dict[str, str] = {}
    names: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            names.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        flag, valued = flags.get(name, name), values.get(name, name)
        if valued in values.values() and (equals or rest):
            set_options[valued] = value if equals else rest.pop(0)
        elif flag in flags.values() and not equals:
            set_options[flag] = ""
        else:
            raise UsageError(f"Cannot understand {word}", remedy=_REMEDY)
    return set_options, names


def _seconds(word: str) -> float:
    if word.isascii() and word.isdecimal() and len(word) <= _DIGITS:
        return float(word)
    raise UsageError(f"--timeout {word} is no number of seconds", remedy=_REMEDY)
