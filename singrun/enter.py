"""One launch: from the request to the program, in one process.

This process prepares namespaces and mounts, then executes the program; a second process waits
only where ``standby`` forks. The mount namespace and its mounts end with the last process in it.
"""

import os

from singrun import assembly, config, recordings
from singrun.environment import variables
from singrun.images import strategies
from singrun.mounts.launch_table import Table, make_workdir
from singrun.mounts.pivot import pivot
from singrun.namespaces import job_step, leaving, standby
from singrun.origin import Origin
from singrun.request import Request


def enter(request: Request) -> str:
    """Return the text of --plan; without --plan, execute the program. Raises RunError."""
    joins_ranks = job_step.want_joining(request)
    site = config.read(enforce=not request.isolation.as_caller)
    config.apply(site, request)
    origin = Origin(request)
    image = strategies.opened(request.image)
    caller = origin.caller
    names, own_pids = origin.directory.names, request.isolation.pid
    table = Table(request.mounts, caller, site, names, own_pids=own_pids)

    # If another rank of this job step has set up an identical root, enter its namespaces.
    ranks = data = hardware = None
    if joins_ranks and not request.plan:
        from singrun.namespaces import joining

        ranks = joining.RankSet(request, image, caller, table, origin.overrides)
        origin.note_begin = recordings.of_ranks(request, image, site, table, origin, ranks)
        if ranks.enter():
            return origin.execute(image.path)
    layers = assembly.layers(request.image, site)
    if table.images:
        from singrun.images.data import DataImages

        data = DataImages(table.images)
    if request.hardware.wants_drivers():
        from singrun.hardware import drivers

        hardware = drivers.Drivers(request.hardware, site)
    if request.plan:
        from singrun.verbs import plan

        return plan.text(request, image, caller, table, site, hardware)
    make_workdir(table, request.mounts)
    origin.note_end = recordings.begin(request, image, site, table, origin)
    cgroup = None
    if request.isolation.limits:
        from singrun.namespaces import limits

        cgroup = limits.Cgroup(limits.files(request.isolation.limits))

    # Leave the host's namespaces. FUSE daemons start in the new mount namespace and mount while
    # we go on; unshare_for moves us, without them, to the one of their mounts (images/fuse.py).
    proc_self = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = leaving.leave_host(caller, proc_self, slave=site.on["mount slave"])
    table.pin()  # before there is a tmpfs in /proc, which the program shall not see
    tmpfs, mounting = assembly.mount_image(image, request, site, privileged=privileged)
    bound = data.mount(tmpfs, privileged=privileged, site=site) if data else None
    tree = mounting.finish()
    overlay = layers.mount(tmpfs, tree, privileged=privileged, site=site) if layers else None
    mounted = [each for each in (mounting, overlay, bound) if each]
    writable_images = [one for each in mounted for one in each.writable_images]
    trees = [overlay.tree if overlay else tree, *(bound.trees if bound else ())]
    waiter = standby.stand_by(request, image, origin.home, writable_images, trees, cgroup)
    if waiter:  # stand_by has forked: the child, which goes on here, is another /proc/self
        proc_self = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    if cgroup:
        cgroup.enter()
    leaving.unshare_for(request.isolation, daemon=any(each.have_daemon for each in mounted))
    if data and bound:
        data.attach_rows(bound.trees, tmpfs)

    # Make a root of the image and its overlay, then put the table of mounts into it.
    root = assembly.assemble(tmpfs, image, trees[0], overlay, privileged=privileged)
    assembly.check_programs(root, image.path, request.program)
    rows = [*table.defaults, *assembly.identity(tmpfs, root, caller, request.mounts, site)]
    rows += hardware.rows(root, image.path) if hardware else []
    rows += assembly.resolver(tmpfs, request.mounts.dns) if request.mounts.dns else []
    rows += variables.mounts(
        origin.overrides, origin.caller_variables, root, tmpfs, origin.appended
    )
    for mount in [*rows, *table.requested]:  # in this order requests cover defaults
        assembly.put(root, mount, debug=request.debug)
    root.make_read_only()
    if (marker_owner := ranks or waiter) and marker_owner.marker:
        marker = leaving.make_marker(marker_owner.marker, f"{tmpfs}/marker", proc_self)
        assembly.place_marker(root, rows, marker)

    # Change root, then restore the caller's ids, directory, umask and signals.
    pivot(root.fd)
    leaving.become(caller, proc_self, privileged=privileged)
    if ranks:
        ranks.release()
    return origin.execute(image.path, waiter)
