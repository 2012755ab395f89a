"""``pull``: an image that is elsewhere becomes a file here.

Container images are built from their layers; what is a file already is fetched as it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from singbuild import host, lease, workspace
from singbuild.cache import contents
from singbuild.console.display import Console, JsonConsole
from singbuild.console.events import Event
from singbuild.console.sizes import binary
from singbuild.errors import HostError, SingbuildError, UsageError
from singbuild.formats import loading as formats
from singbuild.plan import plan, preflight
from singbuild.plan.options import Options
from singbuild.recipe import grammar
from singbuild.recipe.grammar import Recipe
from singbuild.recipe.text import Text
from singbuild.transports import loading as transports

SCHEMES = ("docker", "docker-daemon", "docker-archive", "oci", "oci-archive")
PLAIN = ("docker", "oras")
"""Schemes whose servers may speak plain http, where somebody says so."""


class LayersConsole(Console):
    """Shows an image's name and its layers, as Singularity 2.x did."""

    source = ""

    def _plain(self, event: Event) -> str:
        """Name the source, its layers and the file; the rest is the same for every image."""
        if event.name == "start":
            return self.source
        if event.name == "done":
            return f"{event['image']}: {binary(event['bytes'])}"
        return str(event["text"]) if event.name == "line" and " layer: " in event["text"] else ""


def layers_console(out: TextIO, source: str, *, quiet: bool = False) -> LayersConsole:
    """Return the form that suits where the output goes. source: the name that is shown first."""
    form: type[LayersConsole] = LayersConsole
    if out.isatty():
        from singbuild.console.live import LiveConsole  # a pipe needs no rich

        class LiveLayersConsole(LayersConsole, LiveConsole):
            """The same at a terminal, with the phase and how much of it is done below."""

        form = LiveLayersConsole
    console = form(out, quiet=quiet)
    console.source = source
    return console


@dataclass(frozen=True)
class PullOptions:
    """How an image is pulled.

    force: replace a target that is there; arch: the machine that the image is for, "" for this
    one; insecure: take plain http from a registry; as_json: print events; quiet: warnings and
    errors only.
    """

    force: bool = False
    arch: str = ""
    insecure: bool = False
    as_json: bool = False
    quiet: bool = False


def pull(source: str, target: Path | None, options: PullOptions) -> int:
    """Make a file of the image that ``source`` names, as SCHEME://NAME; return the exit status.

    target: None for a file in the current directory, named after the image.
    """
    scheme, name = parted(source)
    title = _shown(name) if scheme == "docker" else name
    console: Console = layers_console(sys.stdout, title, quiet=options.quiet)
    if options.as_json:
        console = JsonConsole(sys.stdout)
    if is_file(source) and not (options.insecure and scheme in PLAIN):
        place = transports.Place(scheme, name, options.arch)
        return fetch(place, target, console, force=options.force)
    loaded = recipe(source, insecure=options.insecure)
    target = target or Path(f"{_stem(name)}.img")
    from singbuild import build  # what is a file needs none: 60 ms

    of_build = Options(force=options.force, test=False, use_cache=False, command="pull")
    return build.build(plan.make(loaded, console, options.arch), target, of_build, console)


def pull_once(source: str, target: Path, options: PullOptions) -> int:
    """Pull an image if ``force`` is set or no target is there; wait for a process that pulls it."""
    with _place_for(target):
        if target.exists() and not options.force:
            return 0
        # Nobody else writes it now, so what is there is to be replaced.
        status = pull(source, target, replace(options, force=True))
        contents.make_room(target)
        return status


@contextlib.contextmanager
def _place_for(target: Path) -> Iterator[None]:
    """Own a name in the cache, and make its directory, which is removed if no image comes of it."""
    with contextlib.ExitStack() as stack:
        is_ours = False
        while not is_ours:
            try:
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise HostError(
                    f"the cache directory {target.parent} cannot be made",
                    why=f"{error.filename}: {error.strerror}",
                    remedy="Set SINGBUILD_CACHEDIR to a directory that you may write.",
                ) from None
            # Another process, which we waited for, may have removed the directory.
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(lease.leased(target))
                is_ours = True
        try:
            yield
        finally:
            stack.close()
            if not target.exists():
                with contextlib.suppress(OSError):  # another process is at work there
                    target.parent.rmdir()


def recipe(source: str, *, insecure: bool = False) -> Recipe:
    """Return the recipe whose image is the one that ``source`` names. insecure: by plain http.

    Raises UsageError when it names none.
    """
    check(source)
    scheme, name = parted(source)
    more = "Insecure: yes\n" if insecure and scheme in PLAIN else ""
    parsed = grammar.parse(Text(source, f"Bootstrap: {scheme}\nFrom: {name}\n{more}"))
    # No error names lines that nobody wrote.
    headers = (replace(each, line=0, value_column=0) for each in parsed.headers)
    return replace(parsed, headers=(*headers,))


def check(source: str) -> None:
    """Raise UsageError for what does not name an image."""
    scheme, name = parted(source)
    schemes = [*SCHEMES, *(each for each in transports.schemes() if each not in SCHEMES)]
    if scheme not in schemes or not name:
        raise UsageError(
            f"{source} does not name an image",
            remedy=f"Say docker://ubuntu:latest, or one of {', '.join(schemes)} and its name.",
        )
    if not is_text(source):
        raise UsageError(
            f"{source!a} is not UTF-8 text, and cannot be in the image's recipe",
            remedy="Give the file another name, such as: ln -s OLD NEW",
        )


def is_file(source: str) -> bool:
    """Whether what ``source`` names is fetched as it is, and not built."""
    scheme, name = parted(source)
    return scheme in transports.schemes() and scheme not in SCHEMES and bool(name)


def parted(source: str) -> tuple[str, str]:
    """Return a source's scheme and name; "//" between them is not needed."""
    scheme, _, name = source.partition(":")
    return scheme, name.removeprefix("//")


def fetch(
    place: transports.Place,
    target: Path | None,
    console: Console,
    *,
    force: bool,
    update: bool = False,
) -> int:
    """Bring an image's file, whatever its format; return the exit status.

    update: a target that has the same bytes stays as it is.
    """
    with console:
        try:
            if target:
                preflight.check_target(target, force=force)
            console.start(str(place), str(target or place))
            fetched = transports.find(place.scheme).get(place, console)
            if (
                update
                and target
                and target.exists()
                and formats.image_digest(target) == fetched.sha256
            ):
                return 0
            kind = formats.kind_of(fetched.path)
            if not target:
                ending = next(iter(kind.format.endings), ".img")
                target = Path(f"{_stem(place.name).removesuffix(ending)}{ending}")
                preflight.check_target(target, force=force)
            with workspace.part_file(target) as part:
                part.copy_from(fetched.path)
                # An ext3 or a SIF is started as ./IMAGE, and the download is a plain file.
                part.chmod(0o777 & ~host.umask())
                workspace.rename_into_place(part, target, replace=force)
        except SingbuildError as error:
            console.error(error, None)
            return error.status
        console.done(str(target), fetched.size, formats.recorded_digest(target))
    return 0


def is_text(word: str) -> bool:
    """Whether a word of the command line can be encoded again as UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stem(name: str) -> str:
    """Return how the file for an image begins when none is named: python for python:3."""
    last = name.partition("#")[0].rstrip("/").rpartition("/")[2]
    return last.partition("@")[0].partition(":")[0]


def _shown(name: str) -> str:
    """Return a name without its registry, as its owner's page has it: library/ubuntu:latest."""
    first, slash, rest = name.partition("/")
    if slash and (set(first) & {".", ":"} or first == "localhost"):
        name = rest
    elif not slash:
        name = f"library/{name}"
    return name if set(name.rpartition("/")[2]) & {":", "@"} else f"{name}:latest"
