"""The environment of the singbuild commands that a hub starts: the caller's choices, no more."""

from __future__ import annotations

import os

from singbuild import command

_PREFIXES = ("SINGBUILD_", "XDG_", "PYTHON")
_NAMES = (
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "CONTAINERS_REGISTRIES_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "COVERAGE_PROCESS_START",
)


def environment() -> dict[str, str]:
    """Return the variables for singbuild and registries that the caller has set."""
    return command.environment(
        {k: v for k, v in os.environ.items() if k.startswith(_PREFIXES) or k in _NAMES}
    )
