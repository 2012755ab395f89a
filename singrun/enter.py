"""The story of a launch: from the caller's request to the program, in one process.

Nothing supervises the program: this process prepares namespaces and mounts,
and then becomes it. When it ends, its mount namespace ends, and with that
everything that was mounted here.
"""

import os

from singrun import (
    assembly,
    config,
    environment,
    init,
    namespaces,
    program,
    sharing,
    strategies,
    variables,
)
from singrun.errors import say
from singrun.identity import Caller, forbid_new_privileges
from singrun.image import open_image
from singrun.overlay import Layers
from singrun.request import Request
from singrun.workplace import Directory


def enter(request: Request) -> str:
    """Launch. Returns only what --plan prints; else the program runs, or RunError says why not."""
    umask = os.umask(0o022)
    site = config.read()
    config.check_allowed(site, request)
    image = open_image(request.image, writable=request.writable)
    layers = Layers(request, site)
    caller = Caller(as_caller=request.as_caller)
    directory = Directory()
    given = environment.inherited()
    winning = variables.winners(given, request)
    table = sharing.Table(request, caller, site, directory.physical)
    if request.plan:
        from singrun import plan

        return plan.text(request, image, caller, table, site)
    sharing.make_workdir(table, request)

    # Out of the host's namespaces. A FUSE daemon starts here, in a namespace that it shall not
    # share with its mount, and works while we go on.
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = namespaces.leave_host(caller, proc, slave=site.on["mount slave"])
    stage = assembly.make_stage()
    mounting = strategies.start(
        image,
        f"{stage}/image",
        privileged=privileged,
        forced=request.mount_with,
        site=site,
        debug=request.debug,
    )
    for mount in table.rows:
        mount.pin()
    tree = mounting.finish()
    layers.mount(stage, privileged=privileged, site=site)
    if outside := init.stand_by(request, image, mounting.life, tree):
        proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    namespaces.unshare_for(request, daemon=mounting.life >= 0 or layers.have_daemon)

    # The image and what is laid over it become a root, and the table of mounts goes into it.
    inside = assembly.assemble(stage, tree, layers, lasting=image.writable, privileged=privileged)
    assembly.check_programs(inside, image.path, request.shell)
    home = sharing.home(request, caller)
    rows = [*table.rows, *assembly.identity(stage, inside, caller, home, site)]
    for mount in [*rows, *variables.mounts(winning, inside, stage)]:
        if request.debug:
            say(mount.describe())
        mount.execute(inside)
    inside.seal()

    # In, and from here on the caller again: with his ids, directory, umask and signals.
    namespaces.pivot(inside)
    forbid_new_privileges()
    namespaces.become(caller, proc, privileged=privileged)
    words = environment.inner(given, image.path, request, caller)
    words[b"PWD"] = os.fsencode(directory.enter(request.directory, home))
    if request.home:
        words[b"HOME"] = os.fsencode(home)
    if outside:
        outside.enter(own_pids=request.pid)
    os.umask(umask)
    environment.restore_signals(environment.SIGPIPE, environment.SIGXFSZ)
    return program.execute(request, words, winning)
