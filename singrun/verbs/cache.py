"""``cache``: what launches keep on disk, how much room it takes, and making room.

Unpacked images, images of registries (which ``singbuild cache`` shows as well, since it makes
them) and the output of instances. What is in use stays.
"""

import fcntl
import json
import os
import time

from singrun import config, instances
from singrun.errors import UsageError, nearest, printable
from singrun.images import pull_cache, unpacked, unpacking

KINDS = {"tree": "unpacked images", "image": "images of registries", "log": "output of instances"}
VERBS = {  # the options that each takes, with the name of their value
    "list": {"json": ""},
    "du": {"json": ""},
    "prune": {"json": "", "dry-run": "", "size": "SIZE", "older": "DAYS"},
    "clean": {"json": "", "dry-run": "", "all": ""},
}
_DAY = 86400  # seconds
_REMEDY = "See: singrun cache --help"


class Item:
    """One thing that is kept. size: bytes on the disk; used: when last, seconds since 1970."""

    def __init__(self, kind: str, name: str, path: str, size: int, used: float) -> None:
        self.kind, self.name, self.path, self.size, self.used = kind, name, path, size, used


def explain(words: "list[str]") -> str:
    """Return what a verb of ``cache`` prints, after it is done. Raises UsageError, RunError."""
    if not words or words[0] not in VERBS:
        guess = nearest(words[0], [*VERBS]) if words else ""
        why = f"Did you mean cache {guess}?" if guess else f"They are {', '.join(VERBS)}."
        raise UsageError(f"There is no verb {' '.join(['cache', *words[:1]])}", why=why)
    verb, rest = words[0], words[1:]
    options, names = _parted(rest, VERBS[verb])
    if names and (verb != "clean" or not {*names} <= {*KINDS}):
        raise UsageError(f"cache {verb} takes no {names[0]}", remedy=_REMEDY)
    site = config.read()
    listing = _items(site)
    if verb == "list":
        return _list(listing, as_json="json" in options)
    if verb == "du":
        return _usage(listing, site, as_json="json" in options)
    if verb == "prune":
        doomed = _surplus(listing, site, options)
    else:
        kinds = names or [*KINDS][: None if "all" in options else -1]
        doomed = [item for item in listing if item.kind in kinds]
    return _removed(verb, doomed, site, options)


def _items(site: config.Site) -> "list[Item]":
    """Return all that is kept, by kind, the least recently used first."""
    listing = [*_trees(site), *_images(), *_logs()]
    return sorted(listing, key=lambda item: ([*KINDS].index(item.kind), item.used))


def _trees(site: config.Site) -> "list[Item]":
    try:
        cache_fd = unpacked.open_private(site.cache)
    except FileNotFoundError:
        return []
    here = f"/proc/self/fd/{cache_fd}"
    listing = [
        Item("tree", _image_of(f"{here}/{name}") or name, f"{site.cache}/{name}", size, used / 1e9)
        for used, size, name in unpacking.trees(here)
    ]
    os.close(cache_fd)
    return listing


def _image_of(tree: str) -> str:
    """Return the path of the image that a tree was unpacked from; "" where an older one is."""
    try:
        with open(f"{tree}/image", "rb") as file:
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return ""


def _images() -> "list[Item]":
    parent = f"{pull_cache.cache()}/{pull_cache.DIRECTORY}"
    try:
        os.close(unpacked.open_private(pull_cache.cache()))
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    # A pull that was killed leaves an empty directory.
    names = [name for name in names if any(files for _, _, files in os.walk(f"{parent}/{name}"))]
    return [_measured("image", name.replace("%2F", "/"), f"{parent}/{name}") for name in names]


def _logs() -> "list[Item]":
    running = {instance.logs for instance in instances.running()}
    listing = []
    for place in instances.log_directories():
        names = {name.rpartition(".")[0] for name in os.listdir(place) if name[-4:] in _OUTPUT}
        for name in names - {os.path.basename(each) for each in running}:
            parts = [_measured("log", name, f"{place}/{name}{end}") for end in _OUTPUT]
            size, used = sum(each.size for each in parts), max(each.used for each in parts)
            listing.append(Item("log", name, f"{place}/{name}", size, used))
    return listing


_OUTPUT = (".out", ".err")


def _measured(kind: str, name: str, path: str) -> Item:
    size, used = 0, 0.0
    for parent, _, names in [*os.walk(path)] or [(os.path.dirname(path), [], [path])]:
        for each in names:
            try:
                status = os.lstat(f"{parent}/{os.path.basename(each)}")
            except FileNotFoundError:
                continue
            size += status.st_blocks * 512
            used = max(used, status.st_atime, status.st_mtime)
    if os.path.isdir(path):
        used = max(used, os.stat(path).st_mtime)  # when the image was started last: pulled.py
    return Item(kind, name, path, size, used)


def _surplus(listing: "list[Item]", site: config.Site, options: "dict[str, str]") -> "list[Item]":
    """Return what prune removes: what is old, and the trees that are more than the limit."""
    doomed = []
    if "older" in options:
        limit = time.time() - _number(options["older"]) * _DAY
        doomed = [item for item in listing if item.used < limit and item.kind != "log"]
    if "size" in options or "older" not in options:
        most = config.size_of(options["size"], "--size") if "size" in options else site.cache_size
        rest = [item for item in listing if item.kind == "tree" and item not in doomed]
        total = sum(item.size for item in rest)
        for item in rest:
            if total <= most:
                break
            doomed.append(item)
            total -= item.size
    return doomed


def _removed(verb: str, doomed: "list[Item]", site: config.Site, options: "dict[str, str]") -> str:
    """Remove what is to go; return what is said of it."""
    dry = "dry-run" in options
    done = doomed if dry else [item for item in doomed if _remove(item, site)]
    if "json" in options:
        facts = [vars(item) for item in done]
        return _document(verb, removed=[] if dry else facts, would_remove=facts if dry else [])
    size = _shown(sum(item.size for item in done))
    text = (
        f"{'would remove' if dry else 'removed'} {len(done)} item{'s' * (len(done) != 1)}, {size}"
    )
    busy = len(doomed) - len(done)
    return text + (f"; {busy} in use stay{'s' * (busy == 1)}" if busy else "") + "\n"


def _remove(item: Item, site: config.Site) -> bool:
    """Remove one thing; False if it is in use."""
    if item.kind == "log":
        for end in _OUTPUT:
            if os.path.lexists(item.path + end):
                os.unlink(item.path + end)
        return True
    if item.kind == "tree":
        cache_fd = unpacked.open_private(site.cache)
        path = f"/proc/self/fd/{cache_fd}/{os.path.basename(item.path)}"
        done = unpacking.sees_users() and unpacking.take_away(path, site.cache)
        os.close(cache_fd)
        return done
    cache = unpacked.open_private(pull_cache.cache())
    try:
        fcntl.flock(cache, fcntl.LOCK_EX | fcntl.LOCK_NB)  # singbuild holds it while it works
    except BlockingIOError:
        return False
    else:
        unpacking.remove(item.path)
        return True
    finally:
        os.close(cache)


def _list(listing: "list[Item]", *, as_json: bool) -> str:
    if as_json:
        return _document("list", items=[vars(item) for item in listing])
    lines = [f"{'KIND':6} {'LAST USED':16} {'SIZE':>10}  NAME"]
    for item in listing:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
        lines.append(f"{item.kind:6} {used} {_shown(item.size):>10}  {printable(item.name)}")
    return "\n".join(lines) + "\n"


def _usage(listing: "list[Item]", site: config.Site, *, as_json: bool) -> str:
    totals = {kind: sum(i.size for i in listing if i.kind == kind) for kind in KINDS}
    places = {"cache": site.cache, "images": f"{pull_cache.cache()}/{pull_cache.DIRECTORY}"}
    if as_json:
        return _document("du", kinds=totals, limit=site.cache_size, **places)
    lines = []
    for kind, what in KINDS.items():
        limit = f" of {_shown(site.cache_size)}" if kind == "tree" else ""
        count = sum(item.kind == kind for item in listing)
        lines.append(f"{_shown(totals[kind]):>10}{limit}  {count} {what}")
    lines.append(f"{_shown(sum(totals.values())):>10}  in all")
    lines.append(f"in {places['cache']}, images of registries in {places['images']}")
    return "\n".join(lines) + "\n"


def _document(verb: str, **fields: object) -> str:
    return json.dumps({"version": 1, "command": f"cache {verb}", **fields}, indent=2) + "\n"


def _shown(size: int) -> str:
    """Return a number of bytes for people: 8.4 MiB."""
    amount, names = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(names) > 1:
        amount, names = amount / 1024, names[1:]
    return f"{amount:.1f} {names[0]}" if names[0] != "B" else f"{size} B"


def _number(word: str) -> float:
    try:
        days = float(word)
    except ValueError:
        days = -1
    if not 0 <= days < float("inf"):  # nor nan
        raise UsageError(f"--older {word} is not a number of days", remedy=_REMEDY)
    return days


def _parted(words: "list[str]", syntax: "dict[str, str]") -> "tuple[dict[str, str], list[str]]":
    """Return options with their values, and the other words."""
    options: dict[str, str] = {}
    names: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            names.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or name not in syntax:
            guess = nearest(word.lstrip("-"), [*syntax])
            why = f"Did you mean --{guess}?" if guess else ""
            raise UsageError(f"There is no option {word}", why=why, remedy=_REMEDY)
        if bool(syntax[name]) != bool(equals or (syntax[name] and rest)):
            what = "needs a value" if syntax[name] else "takes no value"
            raise UsageError(f"Option --{name} {what}", remedy=_REMEDY)
        options[name] = value if equals or not syntax[name] else rest.pop(0)
    return options, names
