"""``build``: a recipe becomes an image. Words in, calls out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.cli.change import of_image
from singbuild.cli.convert import format_option
from singbuild.cli.grammar import Command
from singbuild.cli.parameters import (
    FILE,
    SIZE,
    events_option,
    force_option,
    host_options,
    host_parts,
    offline_option,
    quiet_option,
    recipe_options,
    unused_option,
    unused_warning,
    warn_of_ending,
)
from singbuild.errors import SingbuildError, UsageError

if TYPE_CHECKING:
    from singrun.signatures.signers import Signers

GROUPS = {
    "Recipe": (
        "build_args",
        "build_arg_file",
        "warn_unused",
        "values",
        "arch",
        "section_words",
        "target",
        "secret_words",
    ),
    "Host": ("bind_words", "mount_words", "nv", "rocm"),
    "Input": (
        "locked",
        "offline",
        "no_cache",
        "cache_from",
        "cache_signers",
        "cache_to",
        "cache_key",
    ),
    "Check": ("check_reproducible", "notest", "writable_tmpfs"),
    "Failure": ("on_error", "resume"),
    "Output": (
        "form",
        "sandbox",
        "update",
        "fix_perms",
        "force",
        "free",
        "as_json",
        "junit",
        "quiet",
    ),
}


@click.command(
    cls=Command,
    groups=GROUPS,
    examples=(
        "singbuild debian.def debian.img",
        "singbuild --free 512M --build-arg release=trixie tool.def tool.img",
        "singbuild --locked --json --junit report.xml tool.def tool.img",
        "singbuild --on-error=shell tool.def tool.img",
    ),
)
@recipe_options
@offline_option
@click.argument("image", type=click.Path())
@format_option
@click.option(
    "-s",
    "--sandbox",
    is_flag=True,
    help="The same as --format directory, and as a slash at IMAGE's end.",
)
@click.option(
    "-u",
    "--update",
    is_flag=True,
    help="Do the recipe's sections on the directory that IMAGE is, instead of a bootstrap.",
)
@force_option
@click.option(
    "--free",
    type=SIZE,
    default="0",
    metavar="SIZE",
    help="Leave this much free space in the image, such as 64M or 2G.",
    show_default=True,
)
@click.option("--notest", is_flag=True, help="Leave out %test.")
@click.option("--locked", is_flag=True, help="Refuse inputs that differ from RECIPE's lock file.")
@click.option(
    "--check-reproducible",
    is_flag=True,
    help="Build twice, the second time on another day, and name what differs.",
)
@click.option("--no-cache", is_flag=True, help="Take no stage from the cache, and add none.")
@click.option(
    "--cache-from",
    multiple=True,
    metavar="URI",
    help="Take stages from there too, such as oras://HOST/NAME, or NAME@sha256:… as --cache-to "
    "printed it; without a digest, whoever may write there is trusted like your own cache.",
)
@click.option(
    "--cache-signers",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="Take from there only what somebody in FILE, an allowed_signers of ssh-keygen, signed.",
)
@click.option(
    "--cache-to",
    multiple=True,
    metavar="URI",
    help="Send this build's stages there, for --cache-from anywhere.",
)
@click.option(
    "--cache-key",
    type=FILE,
    metavar="FILE",
    help="Sign the stages that are sent with this SSH key, for --cache-signers.",
)
@click.option(
    "--secret",
    "secret_words",
    multiple=True,
    metavar="id=NAME,src=FILE|env=VAR",
    help="Let %post read /run/secrets/NAME, and nobody else.",
)
@click.option(
    "--section",
    "section_words",
    multiple=True,
    metavar="NAME,…",
    help='Do only these sections of a definition file; "none": its bootstrap alone.',
)
@click.option(
    "--target",
    default="",
    metavar="STAGE",
    help="Let this stage of a Dockerfile, by name or number, be the image; by default the last.",
)
@host_options
@click.option(
    "--fix-perms",
    is_flag=True,
    help="Let the owner of each file read and write it, and enter directories: chmod u+rwX.",
)
@click.option(
    "--writable-tmpfs",
    is_flag=True,
    expose_value=False,
    help="Accepted: what %test writes is in no image anyway.",
)
@unused_option
@click.option("--junit", type=FILE, metavar="FILE", help="Write a JUnit report there.")
@click.option(
    "--on-error",
    type=click.Choice(["shell", "keep"]),
    help="When a section fails, open a shell in the tree, or keep it for --resume.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue at the section that failed, after a build with --on-error=keep.",
)
@click.option(
    "--privilege",
    type=click.Choice(["root", "subuid", "one-id", "chroot"]),
    help="How to be root in the image; by default the first of these that works here.",
)
@events_option
@quiet_option
def build(
    recipe: str,
    image: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    form: str,
    sandbox: bool,
    update: bool,
    force: bool,
    free: int,
    notest: bool,
    locked: bool,
    check_reproducible: bool,
    no_cache: bool,
    cache_from: tuple[str, ...],
    cache_signers: tuple[Path, ...],
    cache_to: tuple[str, ...],
    cache_key: Path | None,
    secret_words: tuple[str, ...],
    section_words: tuple[str, ...],
    target: str,
    bind_words: tuple[str, ...],
    mount_words: tuple[str, ...],
    nv: bool,
    rocm: bool,
    fix_perms: bool,
    warn_unused: bool,
    junit: Path | None,
    on_error: str | None,
    resume: bool,
    privilege: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Build the file IMAGE from RECIPE, a definition file or a Dockerfile; "-" is standard input.

    Options may stand anywhere. `singbuild plan RECIPE` tells what a build would do.
    """
    # Imported here: --help and a typing error cost no more than they must.
    from singbuild import build as engine
    from singbuild.cache.resume import Shell
    from singbuild.console import choice
    from singbuild.dockerfile import loading
    from singbuild.plan import lock, options, plan
    from singbuild.privilege.modes import Mode
    from singbuild.recipe import selection
    from singbuild.tree import secrets, sections

    console = choice.choose(sys.stdout, as_json=as_json, quiet=quiet)
    try:
        if resume and (locked or check_reproducible):
            raise UsageError(
                "--resume goes with neither --locked nor --check-reproducible",
                why="What the failed run left may be in the image.",
            )
        if no_cache and (cache_from or cache_to):
            raise UsageError("--no-cache goes with neither --cache-from nor --cache-to")
        if on_error == "shell":
            _check_terminal(as_json=as_json)
        elif not on_error:
            console.after_section = "To look into the tree as it failed: --on-error=shell"
        build_secrets = secrets.read(secret_words)
        console.hide = secrets.masked(build_secrets)
        for secret in build_secrets:
            if len(secret.core) < secrets.SEARCHED:
                console.warn(
                    f"the secret {secret.name!r} has fewer than {secrets.SEARCHED} bytes: "
                    "the image is not searched for it"
                )
        if junit:
            from singbuild.console.junit import Report  # its XML takes 5 ms

            console.watchers.append(Report(junit, recipe))
        path = Path(image)
        sandbox = sandbox or update or (not form and image.endswith("/"))
        if not (form or sandbox):
            warn_of_ending(path, console)
        form = _format(path, form, sandbox=sandbox, free=free)
        build_options = options.Options(
            force=force or update,
            format=form,
            test=not notest,
            free=free,
            use_cache=not no_cache,
            locked=lock.read(lock.beside(recipe)) if locked else None,
            section_options=sections.SectionOptions(
                build_secrets,
                host_parts(bind_words, mount_words, nv=nv, rocm=rocm),
                Shell(console) if on_error == "shell" else None,
            ),
            owner_may=fix_perms,
            keep=on_error == "keep",
            resume=resume,
            privilege=Mode(privilege) if privilege else None,
            cache_from=cache_from,
            cache_to=cache_to,
            cache_signers=_signers(cache_signers) if cache_signers else None,
            cache_key=cache_key,
        )
        loaded = loading.load(
            recipe,
            build_args=build_args,
            build_arg_file=build_arg_file,
            values=values,
            target=target,
            on_unused=unused_warning(console) if warn_unused else None,
        )
        loaded = selection.only(loaded, section_words)
        if update:
            loaded = replace(loaded, headers=of_image(_existing(path)))
        planned = plan.make(loaded, console, arch)
        if check_reproducible:
            from singbuild.images import reproducible

            return reproducible.check(planned, path, build_options, console)
        return engine.build(planned, path, build_options, console)
    except SingbuildError as error:
        console.error(error, None)
        return error.status


def _format(image: Path, form: str, *, sandbox: bool, free: int) -> str:
    """Return the word of the image's kind, checked against the other options."""
    from singbuild.formats import loading

    if sandbox and form not in ("", "directory"):
        raise UsageError(f"--format {form} is no directory", remedy="Leave --sandbox out.")
    kind = loading.chosen(image, "directory" if sandbox else form)
    if free and kind.name != loading.DEFAULT:
        raise UsageError(
            f"--free leaves room in an ext3, and {image} will be {kind.name}",
            remedy="Leave it out, or say --format ext3.",
        )
    return kind.name


def _existing(image: Path) -> Path:
    if not image.is_dir():
        raise UsageError(
            f"--update needs a directory that is there, and {image} is none",
            remedy="Make it first: singbuild build --sandbox RECIPE DIR",
        )
    return image


def _signers(files: tuple[Path, ...]) -> Signers:
    """Return the signers whose stages are taken."""
    from singbuild.signatures import trusted_keys  # its cryptography takes 12 ms

    return trusted_keys.load(files, ()).ssh


def _check_terminal(*, as_json: bool) -> None:
    """Refuse a shell where nobody could type into it, or where it would disturb the events."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "--on-error=shell needs a terminal",
            remedy="Keep the tree with --on-error=keep, and go on with --resume.",
        )


COMMANDS = (build,)
