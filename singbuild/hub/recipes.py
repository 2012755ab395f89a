"""The recipes of a commit: their tags, what each reads, and which starts from which.

The naming is Singularity Hub's, and wider: docs/hub.md has the table. A tag never depends on the
content of a file, so the same commit gives the same names everywhere.
"""

from __future__ import annotations

import fnmatch
import graphlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from singbuild.dockerfile import loading
from singbuild.dockerfile.variables import raw_words
from singbuild.errors import SingbuildError
from singbuild.hub.repository import Blob
from singbuild.recipe.recipe import Recipe

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What may be a tag: Docker's rule (the OCI distribution specification), but for the length."""
# What lies in a site beside the directories of a collection's tags.
_PAGES = re.compile(
    r"index(-\d+)?\.html|(collection|pushed|tools|library)\.json|summary\.json\.gz"
    r"|badge\.svg|sizes\.csv|feed\.xml|keys\.js"
)
LATEST = "latest"
_DEFINITION = re.compile(r"(?:Singularity|Apptainer)(?:\.(?P<tag>.+))?|(?P<stem>.+)\.def")
_DOCKERFILE = re.compile(
    r"(?:Dockerfile|Containerfile)(?:\.(?P<tag>.+))?|(?P<stem>.+)\.(?:D|d)ockerfile"
)
_IGNORED = (".dockerignore", ".lock.yaml", ".md", ".txt", "~")  # of files beside a recipe
_IMAGE = re.compile(r"\.(img|simg|sif|sqsh|sqfs|squashfs)$")
_OF_FILES = ("localimage", "docker-archive", "oci-archive", "oci")  # backends
LARGEST = 1 << 20  # bytes of a recipe
_COMPARISONS = 20_000_000  # of what a recipe copies with files: half a minute


@dataclass(frozen=True)
class Candidate:
    """A file that is a recipe by its name. why_not: why it has no page, "" when it has one."""

    path: str
    tag: str
    why_not: str = ""


@dataclass(frozen=True)
class Inputs:
    """What a build reads of the commit. directory: where it starts, from the checkout's root.

    files: path -> mode and Git's id, of the recipe, its lock and all that it copies;
    bases: paths of images that it starts from or copies, which are not in the commit.
    """

    directory: str
    files: Mapping[str, str]
    bases: Mapping[str, str]

    def key(self, *parts: str, bases: Sequence[str] = ()) -> str:
        """Return the content key of the build: 32 hexadecimal digits of a SHA-256.

        parts: what else decides its bits; bases: the keys of the images that it starts from.
        """
        facts = [self.directory, sorted(self.files.items()), *parts, sorted(bases)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def candidates(paths: Sequence[str]) -> list[Candidate]:
    """Find the files that are recipes by their names; the one nearest to the root has the tag.

    Others of the same name get the directory before it: ``gpu/Singularity.tool`` is then
    ``gpu-tool``. A Dockerfile comes behind a definition file, as ``latest-docker``. Sorted by tag.
    """
    by_tag: dict[str, Candidate] = {}
    unusable = []
    for path in sorted(paths, key=_precedence):
        name = PurePosixPath(path).name
        tag = _tag(name)
        if tag is None:
            continue
        forms = [tag, "-".join([*PurePosixPath(path).parts[:-1], tag])]
        forms += [f"{form}-docker" for form in forms] if _DOCKERFILE.fullmatch(name) else []
        tag = next((form for form in forms if form not in by_tag), forms[-1])
        if not TAG.fullmatch(tag):
            why = f"{tag!r} is no tag: letters, digits, dots, hyphens, underscores, at most 64"
            unusable.append(Candidate(path, "", why))
        elif _PAGES.fullmatch(tag):
            why = f"{tag} is the name of a page of each collection"
            unusable.append(Candidate(path, "", why))
        elif tag in by_tag:
            why = f"the tag {tag} is that of {by_tag[tag].path} already"
            unusable.append(Candidate(path, "", why))
        else:
            by_tag[tag] = Candidate(path, tag)
    return [*sorted(by_tag.values(), key=lambda each: each.tag), *unusable]


def _precedence(path: str) -> tuple[int, bool, bool, str]:
    """Sort files near the root first, in a directory Singularity first and Dockerfiles last."""
    name = PurePosixPath(path).name
    is_dockerfile = bool(_DOCKERFILE.fullmatch(name))
    return path.count("/"), is_dockerfile, not name.startswith("Singularity"), path


def _tag(name: str) -> str | None:
    """Return the tag that a file's name gives; None when it is no recipe's."""
    if name.endswith(_IGNORED):
        return None
    match = _DEFINITION.fullmatch(name) or _DOCKERFILE.fullmatch(name)
    if not match:
        return None
    tag = match["tag"] or match["stem"] or LATEST
    return tag.removesuffix(".def")


def load(path: str, checkout: Path) -> Recipe:
    """Read a recipe of a checkout. Raises RecipeError, in words of the repository's paths."""
    with _within(checkout):
        return loading.load(path)


class _within:  # noqa: N801 - a context manager is a participle
    """Make a directory the working directory, where recipes' relative paths start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(self._directory)

    def __exit__(self, *_: object) -> None:
        os.fchdir(self._before)
        os.close(self._before)


def inputs(path: str, recipe: Recipe, files: Mapping[str, Blob]) -> Inputs:
    """Return what of a commit a build of its recipe would read.

    Relative paths of a definition file start at its own directory when all that it copies is
    there, else at the root, where people type the command. A Dockerfile's context is its directory.
    Raises SingbuildError for one that names more files than can be looked for.
    """
    home = str(PurePosixPath(path).parent)
    lock = path.removesuffix(".def") + ".lock.yaml"
    own = [path, lock, f"{path}.dockerignore", str(PurePosixPath(home, ".dockerignore"))]
    if recipe.is_dockerfile:
        patterns = dict.fromkeys(_context_patterns(recipe))
    else:
        patterns = dict.fromkeys([*_copied(recipe), *_named_files(recipe)])
    images = dict.fromkeys(_image_patterns(recipe))
    if (len(patterns) + len(images)) * len(files) > _COMPARISONS:
        raise SingbuildError(
            f"{path} names {len(patterns):,} files to copy, in a commit of {len(files):,}",
            why="Each would have to be looked for among all.",
            remedy="Copy a directory that has them.",
        )
    here = recipe.is_dockerfile or all(any(_matching(files, home, each)) for each in patterns)
    directory = home if here else "."
    read = {each for each in own if each in files}
    for pattern in (*patterns, *images):
        read.update(_matching(files, directory, pattern))
    return Inputs(
        directory,
        {each: f"{files[each].mode:o} {files[each].id}" for each in sorted(read)},
        {
            image: _normal(directory, image)
            for image in _local_images(recipe)
            if _normal(directory, image) not in files
        },
    )


def makers(recipes: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the recipes by the path of the image that each makes, without its ending.

    ``base.def`` and ``Singularity.base`` make ``base.sif`` of their directory.
    """
    by_path = {}
    for each in recipes:
        if each.tag:
            name = PurePosixPath(each.path)
            by_path[str(name.with_name(_tag(name.name) or LATEST))] = each
    return by_path


def bases(recipe_inputs: Inputs, by_path: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Return by its name each image that a recipe starts from and another makes (``makers``)."""
    images = {}
    for image, path in recipe_inputs.bases.items():
        if base := by_path.get(_IMAGE.sub("", path)):
            images[image] = base
    return images


def ordered(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Order tags so that each comes behind those that it needs. SingbuildError for circles."""
    graph = {tag: [each for each in sorted(needs[tag]) if each in needs] for tag in sorted(needs)}
    try:
        return [*graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))  # it has each before those that need it
        raise SingbuildError(f"recipes start from each other in a circle: {circle}") from error


def _stages(recipe: Recipe) -> Iterator[Recipe]:
    yield from recipe.stages
    yield recipe


def _copied(recipe: Recipe) -> Iterator[str]:
    """Yield the sources of %files."""
    for stage in _stages(recipe):
        yield from (item.source for item in stage.files if not item.stage)


def _named_files(recipe: Recipe) -> Iterator[str]:
    """Yield header values that may name a file, such as GPGKey's; no key has to be known."""
    for stage in _stages(recipe):
        for header in stage.headers:
            if (
                header.name.lower() in ("gpgkey", "keyring", "include")
                and "://" not in header.value
            ):
                yield from (word for word in header.value.split() if "/" in word or "." in word)


def _local_images(recipe: Recipe) -> Iterator[str]:
    """Yield the image files that stages start from."""
    if recipe.is_dockerfile:
        return
    for stage in _stages(recipe):
        source = stage.header("from")
        if stage.bootstrap.lower() == "localimage" and source:
            yield source.value


def _image_patterns(recipe: Recipe) -> Iterator[str]:
    """Yield the files that stages start from; a tag may stand behind an archive's path."""
    for stage in () if recipe.is_dockerfile else _stages(recipe):
        source = stage.header("from")
        if stage.bootstrap.lower() in _OF_FILES and source:
            yield source.value
            yield source.value.partition(":")[0]


def _context_patterns(recipe: Recipe) -> Iterator[str]:
    """Yield patterns of what a Dockerfile's instructions copy of its context; "." for all."""
    for stage in _stages(recipe):
        for each in stage.instructions:
            mounts = [m for m in each.values("mount") if "type=bind" in m and "from=" not in m]
            if mounts:
                yield "."
            if each.keyword not in ("COPY", "ADD") or each.flag("from"):
                continue
            words = _words(each.rest.strip())
            for word in words[:-1]:
                if "$" in word:
                    yield "."
                elif not word.startswith("<<") and "://" not in word:
                    yield word.strip("\"'").lstrip("/") or "."


def _words(text: str) -> list[str]:
    """Split the sources and the target of a COPY, which may be a JSON list."""
    try:
        return [str(word) for word in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        return [*raw_words(text)]


def _matching(files: Mapping[str, Blob], directory: str, pattern: str) -> Iterator[str]:
    """Yield the files of a commit that a path or a glob names, those in directories too."""
    # Of COPY --parents ** names any depth: all below what stands before it.
    path_pattern = _normal(directory, pattern.partition("**")[0] or ".")
    if path_pattern == ".":
        yield from files
        return
    depth = path_pattern.count("/") + 1
    for path in files:
        start = "/".join(path.split("/")[:depth])
        if start == path_pattern or fnmatch.fnmatchcase(start, path_pattern):
            yield path


def _normal(directory: str, path: str) -> str:
    """Return a path from the root of the commit; it may begin with "..", and then names nothing."""
    return os.path.normpath(os.path.join(directory, path))  # noqa: PTH118 - as text
