"""What a launch would do, in words, for --plan."""

from singrun.config import Site
from singrun.identity import Caller
from singrun.images import strategies
from singrun.images.image import Image
from singrun.mounts.launch_table import Table
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.hardware.drivers import Drivers


def text(
    request: Request,
    image: Image,
    caller: Caller,
    table: Table,
    site: Site,
    hardware: "Drivers | None",
) -> str:
    """Return a line for the image, then one for every mount, in order."""
    ways = strategies.candidates(
        image, privileged=caller.has_root, forced=request.image.mount_with, site=site
    )
    mode = "to be written" if image.writable else "read-only"
    first = f"{' or '.join(ways)} of {image.path} on /: the {image.kind} image, {mode}"
    layers = [f"overlay of {path} on /" + " read-only" * ro for path, ro in request.image.overlays]
    if request.image.writable_tmpfs:
        layers.append("overlay of a new tmpfs on /: --writable-tmpfs")
    names = [name for name in ("/etc/passwd", "/etc/group") if name not in request.mounts.no_mount]
    own = [f"new file on {name}: the same user inside" for name in names]
    defaults, requested = (
        [row.describe() for row in rows] for rows in (table.defaults, table.requested)
    )
    return "\n".join(
        [first, *layers, *defaults, *own, *requested, hardware.plan() if hardware else ""]
    )
