"""Executes the recipe's sections: %setup on the host, %post and %test in the image.

A script is executed with ``-e`` (it stops at the first failing command) and
``-x`` (it shows what it does). Its line N is the recipe's line N, so that what
a shell says of lines is true of the recipe.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from singbuild import command
from singbuild.contract import Reporter
from singbuild.errors import RecipeError, SectionError
from singbuild.privilege import namespace
from singbuild.recipe.grammar import Recipe, Section
from singbuild.recipe.recipe import SHELLS
from singbuild.tree import apps, binds, chroot, secrets
from singbuild.tree.metadata import HOME, SECTIONS_ENVIRONMENT, SECTIONS_LABELS, is_read
from singbuild.tree.root_directory import READ_LIMIT
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.secrets import Secret
from singbuild.tree.trace import Trace

INSIDE = "/.singbuild.script"
CANNOT_EXECUTE = 126  # chroot(1): the program is there, and is none for this machine
RESOLVER_FILES = ("/etc/resolv.conf", "/etc/hosts")

# Sources the scripts of env/ before %post: those of the source, and what %setup wrote. With
# ``own`` %environment is among them, and is left out: its text may need what %post has yet to make.
_SOURCING = """for _singularity_env in /.singularity.d/env/*.sh; do
    case {own}$_singularity_env in True*/90-environment.sh) continue ;; esac
    [ -f "$_singularity_env" ] && . "$_singularity_env"
done
unset _singularity_env
"""

Execute = Callable[[list[str], Callable[[str], None]], command.Completed]
Interactive = Callable[[Mapping[str, str]], None]
"""Executes a shell on the caller's terminal, with some more variables."""


@dataclass(frozen=True)
class SectionOptions:
    """What sections get from the caller of the build.

    secrets: readable in %post; host: what they see of the host; rescue: called when a section
    failed, before anything of it is taken away, with what executes a shell where and as the
    section was executed.
    """

    secrets: tuple[Secret, ...] = ()
    host: binds.HostParts = field(default_factory=binds.HostParts)
    rescue: Callable[[SectionError, Interactive], None] | None = None


def on_host(recipe: Recipe, name: str, rootfs: Rootfs, work: Path, context: SectionOptions) -> None:
    """Execute %pre or %setup on the host, in the caller's directory, knowing the tree's path.

    Raises SectionError.
    """
    section = recipe.sections[name]
    script = work / name
    script.write_text(section.script())
    names = ("SINGBUILD_ROOTFS", "SINGULARITY_ROOTFS", "APPTAINER_ROOTFS")
    env = {**os.environ, "LC_ALL": "C.UTF-8", **rootfs.variables}
    env |= dict.fromkeys(names, str(rootfs.root)) | _places(str(rootfs.root))
    definition = _definition(recipe, work)
    env |= {"SINGULARITY_BUILDDEF": definition, "APPTAINER_BUILDDEF": definition}

    def execute(argv: list[str], on_line: Callable[[str], None]) -> command.Completed:
        return command.call(argv, env=env, on_line=on_line)

    def interactive(more: Mapping[str, str]) -> None:
        command.interactive(["/bin/sh"], env={**env, **more})

    with _rescued(context, interactive):
        _execute(recipe, section, str(script), execute, rootfs.report)


def _places(root: str) -> dict[str, str]:
    """Return the variables that tell a section where to write variables and labels of the image."""
    places = {"ENVIRONMENT": SECTIONS_ENVIRONMENT, "LABELS": SECTIONS_LABELS}
    return {
        f"{prefix}_{name}": root + path
        for name, path in places.items()
        for prefix in ("SINGULARITY", "APPTAINER")
    }


def _definition(recipe: Recipe, work: Path) -> str:
    """Return the path of the recipe's file; of a copy when it came from standard input."""
    path = Path(recipe.path).absolute()
    if not path.is_file():
        path = work / "Singularity"
        path.write_text(recipe.text)
    return str(path)


def post(
    recipe: Recipe, part: Section, rootfs: Rootfs, context: SectionOptions, script: str = ""
) -> dict[int, float]:
    """Execute %post or a part of it in the image, with the host's names and the secrets.

    script: its text, when that is more than the section's, and turns the trace on by itself.
    Returns when each line of the recipe was read, in seconds. Raises SectionError.
    """
    return _in_image(recipe, part, rootfs, context, 'exec "$@"\n', script)


def install_apps(recipe: Recipe, rootfs: Rootfs, context: SectionOptions) -> None:
    """Execute each %appinstall as %post is, in its app's directory. Raises SectionError."""
    for app in recipe.apps:
        if section := app.sections.get("install"):
            home = f"{apps.APPS}/{app.name}"
            start = f'. {home}/scif/env/01-base.sh\ncd {home}\nexec "$@"\n'
            _in_image(recipe, section, rootfs, context, start)


def _in_image(
    recipe: Recipe,
    section: Section,
    rootfs: Rootfs,
    context: SectionOptions,
    start: str,
    script: str = "",
) -> dict[int, float]:
    """Execute a script in the image, in the environment of its source.

    start: shell text that comes before it and executes it; script: see ``post``.
    """
    section = _for_a_shell_that_is_there(recipe, section, rootfs)
    own = "environment" in recipe.sections and is_read(recipe)
    prefix = ["/bin/sh", "-c", _SOURCING.format(own=own) + start, "sh"]
    with host_names(rootfs), secrets.readable(rootfs, context.secrets):
        return _inside(recipe, section, rootfs, prefix, context, script)


def _for_a_shell_that_is_there(recipe: Recipe, section: Section, rootfs: Rootfs) -> Section:
    """Return a section for /bin/sh where its first line names a shell that the image lacks.

    To Singularity and Apptainer that line is a comment.
    """
    words = section.interpreter.split()
    names_shell = any(PurePosixPath(word).name in SHELLS for word in words)
    status = rootfs.status(words[0]) if names_shell and words[0].startswith("/") else None
    if "-c" in section.arguments or not names_shell or (status and stat.S_ISREG(status.st_mode)):
        return section
    rootfs.report.warn(
        f"{recipe.path}:{section.line}: %{section.name} is read by /bin/sh: "
        f"the image has no {section.interpreter}"
    )
    return replace(section, arguments=("-c", "/bin/sh", *section.arguments))


def test(recipe: Recipe, rootfs: Rootfs, context: SectionOptions) -> None:
    """Execute %test in the finished image, in the environment that its users will get."""
    with host_names(rootfs):
        _inside(recipe, recipe.sections["test"], rootfs, [f"{HOME}/actions/exec"], context)


def check_shell_text(recipe: Recipe, rootfs: Rootfs) -> None:
    """Refuse %environment text that the image's shell cannot parse: it would break every launch.

    Raises RecipeError.
    """
    section = recipe.sections.get("environment")
    if section is None:
        return
    rootfs.write(INSIDE, section.script())
    done = chroot.call(rootfs.root, ["/bin/sh", "-n", INSIDE])
    rootfs.remove(INSIDE)
    if done.status not in (0, CANNOT_EXECUTE):  # the image may be for another machine
        raise RecipeError(
            recipe.path,
            section.line,
            0,
            f"%{section.name}",
            "%environment is not valid shell text",
            why="\n".join(done.tail).replace(INSIDE, recipe.path),
        )


@contextlib.contextmanager
def host_names(rootfs: Rootfs) -> Iterator[None]:
    """Put the host's resolv.conf and hosts into the image for the time of a with-block.

    The image's own files are put back, with what a section appended; a file that a section wrote
    anew stays.
    """
    with contextlib.ExitStack() as stack:
        for name in RESOLVER_FILES:
            if Path(name).is_file():
                stack.enter_context(_lent(rootfs, name, Path(name).read_bytes()))
        yield


@contextlib.contextmanager
def _lent(rootfs: Rootfs, name: str, borrowed: bytes) -> Iterator[None]:
    above, _, last = name.rpartition("/")
    aside = f"{above}/.{last}.singbuild"
    has_own = rootfs.status(name, follow=False) is not None
    if has_own:
        rootfs.rename(name, aside)
    try:
        rootfs.write(name, borrowed)
    except OSError:  # the disk is full
        rootfs.remove(name)
        if has_own:
            rootfs.rename(aside, name)
        raise
    try:
        yield
    finally:
        now = _content(rootfs, name)
        had = rootfs.status(aside, follow=False) is not None
        if now is None or not now.startswith(borrowed):
            rootfs.remove(aside)  # a section wrote or removed it
        else:
            rootfs.remove(name)
            if had:
                rootfs.rename(aside, name)
            if added := now.removeprefix(borrowed):
                if not rootfs.exists(name):
                    rootfs.write(name, b"")
                with rootfs.open(name, "r+b") as file:  # however long the image's own is
                    file.seek(0, os.SEEK_END)
                    file.write(added)


def _content(rootfs: Rootfs, name: str) -> bytes | None:
    """Return a file's content; None where there is none, or one of over READ_LIMIT bytes."""
    status = rootfs.status(name, follow=False)
    if not status or not stat.S_ISREG(status.st_mode) or status.st_size > READ_LIMIT:
        return None
    return rootfs.read(name)


def _inside(
    recipe: Recipe,
    section: Section,
    rootfs: Rootfs,
    prefix: list[str],
    context: SectionOptions,
    script: str = "",
) -> dict[int, float]:
    rootfs.write(INSIDE, script or section.script(), 0o755)
    env = rootfs.variables | _places("")
    devices: list[str] = []
    more: list[str] = []  # a shell that appends the directories of drivers to variables

    def execute(argv: list[str], on_line: Callable[[str], None]) -> command.Completed:
        words = [*prefix, *more, *argv]
        return chroot.call(rootfs.root, words, env=env, on_line=on_line, devices=devices)

    def interactive(more: Mapping[str, str]) -> None:
        shell = "/bin/bash" if rootfs.exists("/bin/bash") else "/bin/sh"
        chroot.interactive(rootfs.root, [*prefix, shell], env={**env, **more})

    try:
        with (
            binds.lent(rootfs, context.host) as (directories, lent_devices),
            _rescued(context, interactive),
        ):
            devices += lent_devices
            if directories:
                lines = [f'export {n}="${{{n}:+${n}:}}{each}"' for n, each in directories.items()]
                more += ["/bin/sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh"]
            return _execute(recipe, section, INSIDE, execute, rootfs.report, script)
    finally:
        namespace.end_others()
        rootfs.remove(INSIDE)


@contextlib.contextmanager
def _rescued(context: SectionOptions, interactive: Interactive) -> Iterator[None]:
    """Call for rescue when a section fails inside the with-block; it has failed all the same."""
    try:
        yield
    except SectionError as error:
        if context.rescue:
            context.rescue(error, interactive)
        raise


def _execute(
    recipe: Recipe,
    section: Section,
    script: str,
    execute: Execute,
    report: Reporter,
    part: str = "",
) -> dict[int, float]:
    """Execute a script and say, when it fails, which line of the recipe did.

    part: the text of a script that turns the trace on by itself. Returns when each line of the
    recipe was read, in seconds.
    """
    interpreter = (section.interpreter or "/bin/sh").split()
    # As a shell counts them: str.splitlines() also divides at form feeds and the like.
    lines = (part or section.script()).removesuffix("\n").split("\n")
    if part:
        lines[0] = ""
    trace = Trace(lines if section.is_shell else [])
    tail: deque[str] = deque(maxlen=command.TAIL_LINES)

    def show(line: str) -> None:
        if (text := trace.shown(line)) is not None:
            tail.append(text)
            report.line(text)

    # -v prints each line as it is read, by which trace.py knows the line that failed.
    flags = (["-e"] if part else ["-e", "-x", "-v"]) if section.is_shell else []
    done = execute([*interpreter, *flags, *section.shell_options, script], show)
    if done.status:
        line = section.recipe_line(trace.failed) or section.line
        raise SectionError(
            f"{recipe.path}:{line}: %{section.name} failed with status {done.status}",
            section=section.name,
            why="\n".join([f"  {line:4} | {recipe.line(line)}", *tail]),
        )
    return {section.recipe_line(index + 1): began for index, began in trace.began.items()}
