"""``warm``: an image is unpacked before it is needed, by a job's prologue for instance."""

import os

from singrun import config
from singrun.errors import RunError
from singrun.identity import Caller
from singrun.images import strategies, unpacking
from singrun.images.image import SANDBOX
from singrun.namespaces import leaving
from singrun.request import Request


def warm(request: Request) -> str:
    """Fill the caller's cache of unpacked images, and return the line to print."""
    site = config.read()
    config.check_allowed(site, request.isolation)
    image = strategies.opened(request.image)
    if image.kind == SANDBOX:
        raise RunError(f"{request.image.path} is a directory already", remedy="Run it as it is.")
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    leaving.leave_host(Caller(), proc, slave=site.on["mount slave"])
    unpacking.fill(image, site)
    return f"{site.cache}/{image.stamp}\n"
