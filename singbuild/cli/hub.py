"""``hub``: a Git repository's images, and a site of static files that shows what is in them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from singbuild.cli.grammar import Command, Group
from singbuild.cli.parameters import FILE, document, json_option
from singbuild.errors import SectionError, UsageError

if TYPE_CHECKING:
    from singbuild.hub.site import Site

INCOMPLETE = SectionError.status
"""The exit status where an image was not built, signed or pushed; the site is written anyway."""


@click.group("hub", cls=Group)
def hub_commands() -> None:
    """Build the images of a Git repository, and show what is in them on a site of static files."""


def commit_options(function: Any) -> Any:
    """Add the options that say which commit of a repository is built, and how."""
    for option in (
        click.option(
            "--allow-setup", is_flag=True, help="Let %setup and %pre run on this host, as you."
        ),
        click.option("--twice", is_flag=True, help="Build each image twice, and compare the bits."),
        click.option(
            "--at",
            default="",
            metavar="COMMIT",
            help="A commit, branch or tag; by default the newest of the default branch.",
        ),
    ):
        function = option(function)
    return function


def site_options(function: Any) -> Any:
    """Add the options that name a collection and its site's URL."""
    for option in (
        click.option(
            "--url",
            default="",
            metavar="URL",
            help="Where the site will be, for shub:// and the commands that pages show.",
        ),
        click.option(
            "--name",
            default="",
            metavar="OWNER/NAME",
            help="The collection's name; by default the last two parts of REPOSITORY.",
        ),
    ):
        function = option(function)
    return function


@hub_commands.command(
    "build",
    cls=Command,
    examples=(
        "singbuild hub build https://git.example/lab/tools.git /srv/hub",
        "singbuild hub build --jobs 4 --twice --url https://hub.example . /srv/hub",
        "singbuild hub build --jobs 64 --slurm . /shared/hub",
        "singbuild hub build --jobs 8 --submit 'srun sh -c {}' . /shared/hub",
    ),
)
@click.argument("repository")
@click.argument("site", type=FILE)
@commit_options
@site_options
@click.option("--only", multiple=True, metavar="PATTERN", help="Tags to build; repeatable.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Images that are built at once.",
)
@click.option(
    "--submit",
    default="",
    metavar="COMMAND",
    help="Start each build by this shell command, in which {} stands for the build.",
)
@click.option(
    "--slurm", is_flag=True, help="Build on a Slurm cluster whose nodes share SITE, as job arrays."
)
@click.option("--key", type=FILE, metavar="FILE", help="Sign new images with this SSH key.")
@click.option(
    "--push", default="", metavar="URI", help="Push new images to oras://HOST/NAMESPACE as well."
)
@click.option(
    "--plan",
    type=click.Choice(["github", "gitlab"]),
    help="Build nothing; print a matrix of jobs for a pipeline.",
)
def build_site(
    repository: str,
    site: Path,
    at: str,
    twice: bool,
    allow_setup: bool,
    name: str,
    url: str,
    only: tuple[str, ...],
    jobs: int,
    submit: str,
    slurm: bool,
    key: Path | None,
    push: str,
    plan: str | None,
) -> int:
    """Build what is new in a commit of REPOSITORY, a path or URL, and write the pages of SITE.

    Only committed files count. What an earlier commit built from the same files is not built again.
    A recipe that fails gets a page with its log, and the status is 7 then, as when an image could
    not be signed or pushed. After an interruption the same command goes on.
    """
    from singbuild.hub import distribution, publish, work
    from singbuild.hub.repository import Repository
    from singbuild.hub.site import Site

    name, place, source = _named(name, repository, url), Site(site), Repository(repository)
    if push and not push.startswith("oras://"):
        raise UsageError(f"--push {push} is no registry", remedy="Name it: oras://HOST/NAMESPACE")
    settings = work.Settings(twice=twice, may_run_on_host=allow_setup, only=only)
    options = ["--twice"] * twice + ["--allow-setup"] * allow_setup
    _end_on_sigterm()
    with publish.surveyed(source, at, settings) as (survey, _):
        units = work.chosen(survey, settings)
    if only and not units:
        raise UsageError(
            f"no tag is like {' or '.join(only)}",
            remedy=f"There are: {', '.join(survey.units) or 'none'}",
        )
    if slurm and submit:
        raise UsageError("of --slurm and --submit only one can be")
    if plan:
        print(json.dumps(publish.matrix(units, plan)))
        return 0
    place.open()
    outcome = publish.build(
        place,
        survey,
        units,
        options,
        source=source.public_source,
        at_once=jobs,
        elsewhere=publish.Elsewhere(submit, slurm),
        report=_print_at_once,
    )
    is_distributed = distribution.distribute(
        place, name, units, distribution.Recipients(key, push), _print_at_once
    )
    publish.write(place, name, repository, survey, url)
    failed = f" ({', '.join(outcome.failed)})" if outcome.failed else ""
    print(
        f"{name} at {survey.commit.id[:12]}: {len(outcome.built)} built, "
        f"{len(outcome.before)} as before, {len(outcome.failed)} failed{failed}"
    )
    print(place.path / name / "index.html")
    return INCOMPLETE if outcome.failed or not is_distributed else 0


@hub_commands.command(
    "image",
    cls=Command,
    examples=("singbuild hub image --at 1a2b3c4 https://git.example/lab/tools.git gpu /srv/hub",),
)
@click.argument("repository")
@click.argument("tag")
@click.argument("site", type=FILE)
@commit_options
def build_image(
    repository: str, tag: str, site: Path, at: str, twice: bool, allow_setup: bool
) -> int:
    """Build one image of a commit into the stores of SITE, and write no page.

    This is what `hub build` does for each image, as a job of its own; `hub collect` joins what
    jobs on other machines have made.
    """
    from singbuild.hub import publish, work
    from singbuild.hub.repository import Repository
    from singbuild.hub.site import Site

    _end_on_sigterm()
    place, source = Site(site), Repository(repository)
    place.open()
    settings = work.Settings(twice=twice, may_run_on_host=allow_setup)
    with publish.surveyed(source, at, settings) as (survey, checkout):
        if tag not in survey.units:
            raise UsageError(
                f"{survey.commit.id} has no recipe for the tag {tag}",
                remedy=f"There are: {', '.join(survey.units) or 'none'}",
            )
        unit = survey.units[tag]
        is_built = work.build(place, survey, unit, checkout, settings, _print_at_once)
    return 0 if is_built else INCOMPLETE


@hub_commands.command(
    "collect", cls=Command, examples=("singbuild hub collect --name lab/tools . /srv/hub job-*/",)
)
@click.argument("repository")
@click.argument("site", type=FILE)
@click.argument("directories", type=FILE, nargs=-1)
@commit_options
@site_options
def collect_site(
    repository: str,
    site: Path,
    directories: tuple[Path, ...],
    at: str,
    twice: bool,
    allow_setup: bool,
    name: str,
    url: str,
) -> int:
    """Join what `hub image` made in DIRECTORIES into SITE, and write its pages; build nothing.

    The status is 7 when an image of the commit is missing.
    """
    from singbuild.hub import publish, work
    from singbuild.hub.repository import Repository
    from singbuild.hub.site import Site

    name, place, source = _named(name, repository, url), Site(site), Repository(repository)
    place.open()
    for directory in directories:
        place.join(Site(directory))
    settings = work.Settings(twice=twice, may_run_on_host=allow_setup)
    with publish.surveyed(source, at, settings) as (survey, _):
        pass
    publish.write(place, name, repository, survey, url)
    missing = [tag for tag, unit in survey.units.items() if not place.has(unit.key)]
    total = len(survey.units)
    print(f"{name} at {survey.commit.id[:12]}: {total - len(missing)} of {total} images are there")
    return INCOMPLETE if missing else 0


@hub_commands.command("check", cls=Command, examples=("singbuild hub check /srv/hub",))
@click.argument("site", type=FILE)
@json_option
def check_site(site: Path, as_json: bool) -> int:
    """Check every link and every digest of SITE; exits with 8 when one is wrong."""
    from singbuild.errors import ImageError
    from singbuild.hub.check import faults

    place = _existing(site)
    wrong = list(faults(place))
    verdict = f"{len(wrong)} faults" if wrong else "sound"
    if as_json:
        document("hub check", site=str(place.path), sound=not wrong, faults=wrong)
    else:
        print("\n".join([*wrong, f"{place.path}: {verdict}"]))
    return ImageError.status if wrong else 0


@hub_commands.command(
    "compare", cls=Command, examples=("singbuild hub compare /srv/hub lab/tools:gpu lab/tools:cpu",)
)
@click.argument("site", type=FILE)
@click.argument("one")
@click.argument("other")
@json_option
def compare_images(site: Path, one: str, other: str, as_json: bool) -> int:
    """Compare two images of SITE, each an OWNER/NAME:TAG; exits with 1 when they differ.

    Reads no image: names, modes, sizes and digests of contents stand in the site's records.
    """
    from singbuild.hub import contents

    place = _existing(site)
    keys = [_key(place, word) for word in (one, other)]
    difference = contents.difference(*map(place.files, keys))
    share = round(100 * contents.similarity(*(place.record(key)["sketch"] for key in keys)))
    if as_json:
        document("hub compare", **difference._asdict(), contents_in_common=share)
    else:
        for sign, paths in (
            ("+", difference.added),
            ("-", difference.removed),
            ("~", difference.changed),
        ):
            print("".join(f"{sign} {path}\n" for path in paths), end="")
        print(f"{difference.total} paths differ; about {share} % of file contents are in common")
    return 1 if difference.total else 0


@hub_commands.command("prune", cls=Command, examples=("singbuild hub prune --keep 3 /srv/hub",))
@click.argument("site", type=FILE)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Builds of each tag that stay, the newest ones.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
def prune_site(site: Path, keep: int, dry_run: bool) -> int:
    """Remove images of SITE that only older builds of a tag have; records and pages stay."""
    from singbuild.console.sizes import binary
    from singbuild.hub import publish

    removed = publish.prune(_existing(site), keep, dry_run=dry_run)
    print(f"{len(removed)} images, {binary(sum(removed.values()))}" + " to remove" * dry_run)
    return 0


@hub_commands.command("serve", cls=Command, examples=("singbuild hub serve --port 8000 /srv/hub",))
@click.argument("site", type=FILE)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="The port; 0 for any that is free.",
)
def serve_site(site: Path, host: str, port: int) -> int:
    """Serve SITE, read-only, until Ctrl-C. Any web server of files does as well."""
    from singbuild.hub.serve import serve

    serve(_existing(site), host, port, _print_at_once)
    return 0


def _print_at_once(line: str) -> None:
    print(line, flush=True)


def _named(name: str, repository: str, url: str) -> str:
    """Return the collection's name, checked, as is ``--url``. Raises UsageError."""
    from singbuild.hub import collection

    if url and not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url} is no URL of a web server", remedy="Begin it with https://")
    if name:
        return collection.check_name(name)
    path = Path(repository)
    return collection.name_of(str(path.resolve()) if path.exists() else repository)


def _existing(path: Path) -> Site:
    """Return a site that is there."""
    from singbuild.hub.site import Site

    site = Site(path)
    if not site.load("hub.json"):
        raise UsageError(
            f"{path} is no hub's site", remedy="Make one: singbuild hub build REPOSITORY SITE"
        )
    return site


def _key(site: Site, word: str) -> str:
    """Return the key of the newest build that OWNER/NAME:TAG has."""
    from singbuild.hub import collection

    name, _, tag = word.partition(":")
    subject = collection.load(site, name)
    build = subject.commits[-1].builds.get(tag or "latest") if subject.commits else None
    if build is None or build.status != "built":
        raise UsageError(f"{site.path} has no image {word}", remedy="Name one as OWNER/NAME:TAG.")
    return build.key


def _end_on_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: what it started ends with it."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, end)
