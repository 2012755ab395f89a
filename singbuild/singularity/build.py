"""``build``: [OPTIONS] TARGET SOURCE, of a recipe, a URI, an image or a directory."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import click

from singbuild.cli.parameters import host_options, host_parts, unused_warning
from singbuild.errors import SingbuildError
from singbuild.singularity import options, source, targets
from singbuild.singularity.messages import InfoConsole

_NO_CIPHER = "Images are not encrypted; keep the file where only its readers may read it."
_REMOTE = "Builds are made here; no service is asked."


@click.command(
    "build",
    epilog="""\b
Examples:
  singularity build debian.sif docker://debian:12
  singularity build mine.sif mine.def
  singularity build --sandbox tree/ docker-archive://saved.tar
  singularity build copy.sif tree/
""",
)
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("word", metavar="SOURCE")
@click.option("-F", "--force", is_flag=True, help="Replace a target that is there.")
@click.option("-s", "--sandbox", is_flag=True, help="Make a directory, to be worked on.")
@click.option("-T", "--notest", is_flag=True, help="Leave out %test.")
@click.option("-u", "--update", is_flag=True, help="Build onto what the target holds.")
@click.option("--section", "sections", multiple=True, metavar="NAME,…", help="Only these sections.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="A value.")
@click.option("--build-arg-file", type=click.Path(path_type=Path), help="Lines of NAME=VALUE.")
@options.of_registries
@host_options
@click.option("--fix-perms", is_flag=True, help="chmod u+rwX in the image.")
@click.option("--warn-unused-build-args", "warn_unused", is_flag=True, help="Warn of them.")
@options.idle("fakeroot/f", "disable-cache", "no-cleanup", "isolated/i", "writable")
@options.idle("ignore-fakeroot-command", "ignore-subuid", "ignore-userns", "no-setgroups")
@options.idle("writable-tmpfs")
@options.refused("remote", _REMOTE)
@options.refused("detached", _REMOTE)
@options.refused("builder", _REMOTE, flag=False)
@options.refused("encrypt", _NO_CIPHER)
@options.refused("passphrase", _NO_CIPHER)
@options.refused("pem-path", _NO_CIPHER, flag=False)
@click.pass_obj
def build(
    quiet: bool,
    target: Path,
    word: str,
    force: bool,
    sandbox: bool,
    notest: bool,
    update: bool,
    sections: tuple[str, ...],
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    bind_words: tuple[str, ...],
    mount_words: tuple[str, ...],
    nv: bool,
    rocm: bool,
    fix_perms: bool,
    warn_unused: bool,
    arch: str,
    platform: str,
    nohttps: bool,
) -> int:
    """Make the image TARGET of SOURCE: a recipe, a URI, an image or a directory."""
    from singbuild import build as engine
    from singbuild.cli.change import of_image
    from singbuild.images import change
    from singbuild.plan import plan
    from singbuild.plan.options import Options
    from singbuild.recipe import selection
    from singbuild.tree.sections import SectionOptions

    if ":" not in word and not Path(word).exists() and target.is_file():
        raise SingbuildError(
            f"there is no {word}, and there is {target}",
            remedy=f"The target stands first: singularity build TARGET {target}",
        )
    console = InfoConsole(quiet=quiet)
    kind = targets.kind(target, sandbox=sandbox or (update and target.is_dir()))
    if source.is_image(word) and not update:
        return _copied(Path(word), target, kind, console, force=force)
    insecure = options.plain_http(nohttps=nohttps)
    recipe = source.recipe(
        word,
        insecure=insecure,
        build_args=build_args,
        build_arg_file=build_arg_file,
        on_unused=unused_warning(console) if warn_unused else None,
    )
    recipe = selection.only(recipe, sections)
    if update and not target.is_dir():
        return change.bootstrap(target, recipe, test=not notest, quiet=quiet)
    if update:
        recipe = replace(recipe, headers=of_image(target))
    planned = plan.make(recipe, console, options.machine(arch, platform))
    build_options = Options(
        force=force or update,
        test=not notest,
        format=kind,
        section_options=SectionOptions(host=host_parts(bind_words, mount_words, nv=nv, rocm=rocm)),
        owner_may=fix_perms,
    )
    return engine.build(planned, target, build_options, console)


def _copied(image: Path, target: Path, kind: str, console: InfoConsole, *, force: bool) -> int:
    """Write an existing image as another kind; return the exit status."""
    from singbuild.images import conversion

    console.start(str(image), str(target))
    conversion.convert(image, target, console, word=kind, force=force)
    size = 0
    with contextlib.suppress(OSError):
        size = target.stat().st_size
    console.done(str(target), size)
    return 0
