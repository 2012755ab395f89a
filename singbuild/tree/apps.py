"""Writes what an image says of its apps, in SCIF's layout below /scif: docs/image-format.md.

The Scientific Filesystem (https://sci-f.github.io) as Singularity 2.4 and its heirs have it.
"""

from __future__ import annotations

import json
import re

from singbuild.recipe.grammar import App, Recipe
from singbuild.tree.root_directory import RootDirectory

APPS, DATA = "/scif/apps", "/scif/data"
ENV = "/.singularity.d/env"
PROGRAMS = {"run": "runscript", "test": "test", "start": "startscript"}

# variable: the app's name, as far as a variable's name can have it.
_ALL_APPS = f"export SCIF_APPS={APPS} SCIF_DATA={DATA}\n"
_EACH_APP = """\
export SCIF_APPROOT_{variable}={apps}/{name} SCIF_APPBIN_{variable}={apps}/{name}/bin
export SCIF_APPLIB_{variable}={apps}/{name}/lib SCIF_APPDATA_{variable}={data}/{name}
export SCIF_APPMETA_{variable}={apps}/{name}/scif
export SCIF_APPRUN_{variable}={apps}/{name}/scif/runscript
export SCIF_APPENV_{variable}={apps}/{name}/scif/env/90-environment.sh
export SCIF_APPLABELS_{variable}={apps}/{name}/scif/labels.json
"""
_THIS_APP = """\
export SCIF_APPNAME={name} SCIF_APPROOT={apps}/{name} SCIF_APPMETA={apps}/{name}/scif
export SCIF_APPDATA={data}/{name} SCIF_APPINPUT={data}/{name}/input
export SCIF_APPOUTPUT={data}/{name}/output SCIF_DATA={data} SCIF_APPS={apps}
"""
# The runtime sets SINGULARITY_APPNAME for `singrun run --app`.
_APP_OF_LAUNCH = """\
app=/scif/apps/${SINGULARITY_APPNAME:-}
if [ -n "${SINGULARITY_APPNAME:-}" ] && [ -d "$app/scif/env" ]; then
    export PATH="$app/bin:$app:$PATH"
    export LD_LIBRARY_PATH="$app/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    . "$app/scif/env/01-base.sh"
    . "$app/scif/env/90-environment.sh"
fi
unset app
"""


def prepare(rootfs: RootDirectory, recipe: Recipe) -> None:
    """Make the directories of each app, and tell %appinstall of them."""
    for app in recipe.apps:
        home = f"{APPS}/{app.name}"
        for name in (f"{home}/bin", f"{home}/lib", f"{home}/scif/env"):
            rootfs.mkdir(name)
        for name in ("input", "output"):
            rootfs.mkdir(f"{DATA}/{app.name}/{name}")
        text = _THIS_APP.format(name=app.name, apps=APPS, data=DATA)
        rootfs.write(f"{home}/scif/env/01-base.sh", text)


def write(rootfs: RootDirectory, recipe: Recipe) -> None:
    """Write the programs, labels and texts of each app, and the variables that tell of all."""
    for app in recipe.apps:
        _write_app(rootfs, app)
    names = [name for name in rootfs.names(APPS) if rootfs.exists(f"{APPS}/{name}/scif/env")]
    if names:  # those of a base image count as well
        each = (
            _EACH_APP.format(name=name, variable=re.sub(r"\W", "_", name), apps=APPS, data=DATA)
            for name in names
        )
        rootfs.write(f"{ENV}/94-appsbase.sh", _ALL_APPS + "".join(each))
        rootfs.write(f"{ENV}/95-apps.sh", _APP_OF_LAUNCH)


def _write_app(rootfs: RootDirectory, app: App) -> None:
    home = f"{APPS}/{app.name}/scif"
    environment = app.sections.get("env")
    rootfs.write(f"{home}/env/90-environment.sh", environment.body() if environment else "")
    for name, file in PROGRAMS.items():
        section = app.sections.get(name)
        if section and section.body().strip():
            flags = ("-e",) if name == "test" else ()
            rootfs.write(f"{home}/{file}", section.executable(*flags), 0o755)
    if text := app.sections.get("help"):
        rootfs.write(f"{home}/runscript.help", text.body())
    labels = {label.key: label.value for label in app.labels}
    rootfs.write(f"{home}/labels.json", json.dumps(labels, indent=4, sort_keys=True) + "\n")
    texts = (f"%{each.name} {app.name}\n{each.body()}" for each in app.sections.values())
    rootfs.write(f"{home}/Singularity", "".join(texts))
