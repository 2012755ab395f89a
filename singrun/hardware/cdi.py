"""--device: devices that vendors describe for all runtimes. Container Device Interface, SPEC.md.

What a device needs are binds and variables; they become those of the request, as if --bind and
--env had named them. Hooks are programs of the host that would work on a container from outside;
singrun has no process there, so they are left out with a warning.
"""

import json
import os

from singrun.errors import RunError, say
from singrun.request import BindOption, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST = 1 << 22  # bytes of a description; the vendors' have some 20 kB
_SUFFIXES = (".json", ".yaml", ".yml")
_REMEDY = "Ask the administrator for one in JSON: nvidia-ctk cdi generate --format=json …"


def apply(request: Request) -> None:
    """Add what the request's devices need to its binds and variables."""
    variables: list[tuple[str, str, str]] = []
    devices, unreadable = _devices(request.hardware.cdi_directories)
    for name in request.hardware.devices:
        if name not in devices:
            where = " and ".join(request.hardware.cdi_directories)
            why = f"{where} have {', '.join(sorted(devices)) or 'none'}."
            if unreadable:
                why += f" Not read, since they are no JSON: {', '.join(unreadable)}."
            raise RunError(f"There is no device {name}", why=why, remedy=_REMEDY)
        path, edits = devices[name]
        try:
            for each in edits:
                variables += _edit(request, each, f"--device {name}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"Cannot understand {name} in {path}", why=f"{error!r}.") from None
    request.variables.assignments[:0] = variables  # --env and --env-file lie over them


def _devices(directories: list[str]) -> "tuple[dict[str, tuple[str, list[Any]]], list[str]]":
    """Return each device's file and edits, and the files that are no JSON.

    Later directories have priority over earlier ones, as the specification says.
    """
    devices: dict[str, tuple[str, list[Any]]] = {}
    unreadable: list[str] = []
    for directory in directories:
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        for path in [f"{directory}/{name}" for name in names if name.endswith(_SUFFIXES)]:
            try:
                with open(path, "rb") as file:
                    description = json.loads(file.read(_LARGEST))
                general = description.get("containerEdits") or {}
                for device in description["devices"]:
                    edits = [general, device.get("containerEdits") or {}]
                    devices[f"{description['kind']}={device['name']}"] = path, edits
            except OSError as error:
                raise RunError(f"Cannot read {path}", why=f"{error.strerror}.") from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                unreadable.append(path)
    return devices, unreadable


def _edit(request: Request, edits: "dict[str, Any]", why: str) -> list[tuple[str, str, str]]:
    """Add the binds, and return the variables."""
    for node in edits.get("deviceNodes") or []:
        _bind(request, node.get("hostPath") or node["path"], node["path"], why)
    for mount in edits.get("mounts") or []:
        read_only = "ro" in (mount.get("options") or [])
        _bind(request, mount["hostPath"], mount["containerPath"], why, read_only=read_only)
    for hook in edits.get("hooks") or []:
        say(f"Left out, of {why}: the hook {' '.join([hook['path'], *hook.get('args', [])[1:]])}")
    pairs = [str(line).partition("=") for line in edits.get("env") or []]
    return [(name, value, why) for name, _, value in pairs]


def _bind(
    request: Request, source: object, target: object, why: str, *, read_only: bool = False
) -> None:
    paths = (str(source), str(target))
    if not all(path.startswith("/") for path in paths):
        raise ValueError(f"{paths} are no paths")
    if not os.path.exists(paths[0]):
        raise RunError(f"There is no {paths[0]}, which {why} needs", remedy="Is the driver loaded?")
    bind = BindOption(paths[0], os.path.normpath(paths[1]), read_only=read_only, why=why)
    if bind.target not in [each.target for each in request.mounts.binds]:
        request.mounts.binds.append(bind)
