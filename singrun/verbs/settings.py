"""``config show``: the site's file and the caller's variables, as they count for a launch."""

import os

from singrun import config, option_variables
from singrun.errors import UsageError, printable

_USAGE = "Usage: singrun config show [--json]"
_VARIABLES = {"cache directory": "SINGRUN_CACHEDIR", "cache size": "SINGRUN_CACHESIZE"}


def explain(words: "list[str]") -> str:
    """Return each directive with its value, and the place that it is from. Raises UsageError."""
    if words[:1] != ["show"] or words[1:] not in ([], ["--json"]):
        raise UsageError(f"Cannot understand config {' '.join(words)}".rstrip(), remedy=_USAGE)
    site = config.read()
    rows = [*_directives(site), *option_variables.in_environment()]
    if "--json" in words:
        import json

        settings = [
            {"name": name, "value": value, "source": source} for name, value, source in rows
        ]
        facts = {"version": 1, "command": "config show", "file": site.path, "settings": settings}
        return json.dumps(facts, indent=2) + "\n"
    width = max(len(value) for _, value, _ in rows)
    lines = [f"{name:22} {value or '-':{width}}  {source}".rstrip() for name, value, source in rows]
    idle = f"Not obeyed: {', '.join(dict.fromkeys(site.idle))}" if site.idle else ""
    file = f"File: {site.path or f'none; it would be {config.PATH}'}"
    return "\n".join([*map(printable, lines), "", file, *filter(None, [idle])]) + "\n"


def _directives(site: config.Site) -> "list[tuple[str, str, str]]":
    values = {name: "yes" if on else "no" for name, on in site.on.items()}
    values |= site.word | {"cache directory": site.cache}
    values |= {"bind path": ", ".join(site.binds)}
    values |= {name: ", ".join(each) for name, each in site.lists.items()}
    rows = []
    for name, value in values.items():
        variable = _VARIABLES.get(name, "")
        by_variable = os.environ.get(variable, "") if variable else ""
        source = variable if by_variable else site.places.get(name, "")
        rows.append((name, by_variable or value, source))
    return rows
