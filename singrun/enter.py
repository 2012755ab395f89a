"""The story of a launch: from the caller's request to the program, in one process.

Nothing supervises the program: this process prepares namespaces and mounts,
and then becomes it. When it ends, its mount namespace ends, and with that
everything that was mounted here.
"""

import os

from singrun import assembly, config
from singrun.environment import variables
from singrun.images import strategies
from singrun.images.overlay import Layers
from singrun.mounts.pivot import pivot
from singrun.mounts.shared import Table, make_workdir
from singrun.namespaces import joining, leaving, waiting
from singrun.origin import Origin
from singrun.request import Request


def enter(request: Request) -> str:
    """Launch. Returns only what --plan prints; else the program runs, or RunError says why not."""
    shared = joining.wanted(request)
    site = config.read(obey=not request.isolation.as_caller)
    config.apply(site, request)
    origin = Origin(request)
    image = strategies.opened(request.image)
    caller = origin.caller
    table = Table(
        request.mounts, caller, site, origin.directory.names, own_pids=request.isolation.pid
    )

    # Where other ranks of a job step have set up the same already, their namespaces will do.
    ranks = None
    if shared and not request.plan:
        ranks = joining.RankSet(request, image, caller, table, origin.winning)
        if ranks.enter():
            origin.execute(image.path)
    layers = Layers(request.image, site)
    data = hardware = None
    if table.images:
        from singrun.images.data import DataImages

        data = DataImages(table.images)
    if origin.behind:
        from singrun.hardware import drivers

        hardware = drivers.Drivers(request.hardware, site)
    if request.plan:
        from singrun.verbs import plan

        text = plan.text(request, image, caller, table, site)
        return text + (hardware.plan() if hardware else "")
    make_workdir(table, request.mounts)

    cgroup = None
    if request.isolation.limits:
        from singrun.namespaces import limits

        cgroup = limits.Cgroup(limits.files(request.isolation.limits))

    # Out of the host's namespaces. A FUSE daemon starts here, in a namespace that it shall not
    # share with its mount, and works while we go on.
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = leaving.leave_host(caller, proc, slave=site.on["mount slave"])
    stage = assembly.make_stage()
    mounting = strategies.start(
        image,
        f"{stage}/image",
        privileged=privileged,
        forced=request.image.mount_with,
        site=site,
        debug=request.debug,
    )
    if data:
        data.mount(stage, privileged=privileged, site=site)
    table.pin()
    tree = layers.mount(stage, mounting.finish(), privileged=privileged, site=site)
    own = [(image, mounting.life)] if image.writable and mounting.life >= 0 else []
    written = [*own, *layers.written, *(data.written if data else ())]
    trees = [tree, *(data.trees if data else ())]
    if outside := waiting.stand_by(request, image, origin.home, written, trees, cgroup):
        proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    if cgroup:
        cgroup.enter()
    have_daemon = mounting.life >= 0 or layers.have_daemon or bool(data and data.have_daemon)
    leaving.unshare_for(request.isolation, daemon=have_daemon)
    if data:
        data.take(stage)

    # The image and what is laid over it become a root, and the table of mounts goes into it.
    inside = assembly.assemble(stage, tree, layers, lasting=image.writable, privileged=privileged)
    assembly.check_programs(inside, image.path, request.program)
    rows = [*table.ours, *assembly.identity(stage, inside, caller, request.mounts, site)]
    rows += hardware.rows(inside, image.path) if hardware else []
    rows += assembly.resolver(stage, request.mounts.dns) if request.mounts.dns else []
    rows += variables.mounts(origin.winning, origin.own, inside, stage, origin.behind)
    for mount in [*rows, *table.wished]:  # what the user wishes lies over all that is ours
        assembly.put(inside, mount, debug=request.debug)
    inside.seal()
    if marker := ranks.marker if ranks else outside.marker if outside else "":
        assembly.mark(inside, rows, leaving.mark(marker, f"{stage}/marker", proc))

    # In, and from here on the caller again: with his ids, directory, umask and signals.
    pivot(inside.fd)
    leaving.become(caller, proc, privileged=privileged)
    if ranks:
        ranks.release()
    return origin.execute(image.path, outside)
