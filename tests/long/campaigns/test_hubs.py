"""Repositories of strangers cannot leave their checkout, and no text of theirs is markup."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.errors import SingbuildError
from singbuild.hub import collection, pages, recipes, registry, shpc
from singbuild.hub.repository import Repository
from singbuild.hub.work import Settings, Survey, survey
from tests.bench import campaign
from tests.unit.test_hub_pages import ELEMENTS, Elements, crafted

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]

NAMES = (
    *(b"Singularity", b"Singularity.x", b"a.def", b"b.def", b"Dockerfile", b"Singularity.-x"),
    *(b"sub", b"a.lock.yaml", b".dockerignore", b"up", b"data", b"--help", b"x" * 255),
    *(b"..", b".", b".git", b".GIT", b"git~1", b"\x1b[31m", b"a\nb.def", b"\xff.def", b"a b.def"),
    *(b"Singularity.<b>", b"Apptainer.'\"", b"*.def", b"$(id).def", b"\\..\\x", b"CON", b"a.sif"),
)
TARGETS = (
    *(b"..", b"../..", b"/", b"/etc/passwd", b"up", b"sub", b"sub/..", b"up/../..", b".", b""),
    *(b"../outside", b"up/up/up", b"\xff", b"a\0b", b"x" * 5000, b"/proc/self/root", b"data"),
)
PIECES = (
    *(b"Bootstrap: busybox\n", b"Bootstrap: localimage\nFrom: ", b"a.sif\n", b"../outside\n"),
    *(b"/etc/shadow /x\n", b"%files\n", b"    ../outside /x\n", b"    up/x /x\n", b"    * /\n"),
    *(b"%post\n    true\n", b"%setup\n    true\n", b"%pre\n    true\n", b"    ~/.ssh /x\n"),
    *(b"FROM scratch\n", b"COPY . /\n", b"COPY ../outside /x\n", b"ADD /etc/passwd /x\n"),
    *(b"%files from a\n", b"Stage: a\n", b"    data /data\n", b"Include: /etc/passwd\n", b"\0"),
    *(b"MirrorURL: file:///etc\n", b"GPGKey: ../outside\n", b"{{ x }}", b"\x1b[2J", b"<script>"),
)


class Store:
    """A bare repository whose objects are written by hand: Git itself would refuse some."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("objects", "refs/heads"):
            (place / name).mkdir(parents=True)
        (place / "HEAD").write_text("ref: refs/heads/main\n")
        (place / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")

    def add(self, kind: str, content: bytes) -> bytes:
        data = f"{kind} {len(content)}".encode() + b"\0" + content
        digest = hashlib.sha1(data, usedforsecurity=False)
        path = self.place / "objects" / digest.hexdigest()[:2] / digest.hexdigest()[2:]
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(zlib.compress(data, 1))
        return digest.digest()

    def tree(self, chance: random.Random, depth: int = 0) -> bytes:
        entries = {}
        for _ in range(chance.randrange(1, 6)):
            name = chance.choice(NAMES[: 12 if chance.randrange(20) else None])
            kind = chance.randrange(8)
            if kind < 4:
                pieces = [chance.choice(PIECES) for _ in range(chance.randrange(4))]
                start = chance.choice(PIECES[:2]) if chance.randrange(3) else b""
                blob = self.add("blob", start + b"".join(pieces))
                entries[name] = (b"100644" if kind else b"100755", blob)
            elif kind < 6:
                entries[name] = (b"120000", self.add("blob", chance.choice(TARGETS)))
            elif kind == 6 and depth < 4:
                entries[name] = (b"40000", self.tree(chance, depth + 1))
            elif not chance.randrange(20):
                entries[name] = (b"160000", bytes(20))
        content = b"".join(
            mode + b" " + name + b"\0" + each for name, (mode, each) in sorted(entries.items())
        )
        return self.add("tree", content)

    def commit(self, chance: random.Random) -> str:
        subject = chance.choice(PIECES)
        text = (
            f"tree {self.tree(chance).hex()}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\n"
        )
        return self.add("commit", text.encode() + subject).hex()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory in memory, with a file that nobody may come to."""
    where = Path("/dev/shm") / f"hub-{os.getpid()}"
    where.mkdir()
    (where / "outside").write_text("secret")
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(where / "cache"))
    yield where
    shutil.rmtree(where)


BATCH = 100


def test_repositories(place: Path) -> None:
    def check(chance: random.Random) -> Counter[str]:
        store = Store(place / "store")
        commits = {number: store.commit(chance) for number in range(BATCH)}
        for number, commit in commits.items():
            (store.place / f"refs/heads/c{number}").write_text(f"{commit}\n")
        (store.place / "refs/heads/main").write_text(f"{commits[0]}\n")
        outcomes: Counter[str] = Counter()
        repository = Repository(str(store.place))
        try:
            repository.fetch()
            for commit in commits.values():
                outcomes[surveyed(repository, commit, place)] += 1
        finally:
            shutil.rmtree(store.place)
            shutil.rmtree(place / "cache", ignore_errors=True)
        return outcomes

    campaign.run("hostile repositories", check, batch=BATCH)


def surveyed(repository: Repository, commit: str, place: Path) -> str:
    """Survey a commit; check that nothing of it lies or leads outside of the checkout."""
    checkout = place / "work/checkout"
    checkout.mkdir(parents=True)
    try:
        result = survey(repository, repository.commit(commit), checkout, Settings())
    except SingbuildError:
        return "refused"
    else:
        check_survey(result, checkout)
        return (
            "with recipes" if any(not unit.error for unit in result.units.values()) else "without"
        )
    finally:
        assert [path.name for path in checkout.parent.iterdir()] == ["checkout"]
        assert (place / "outside").read_text() == "secret"
        shutil.rmtree(checkout.parent)


def check_survey(result: Survey, checkout: Path) -> None:
    root = checkout.resolve()
    for path in checkout.rglob("*"):
        assert path.resolve().is_relative_to(root), path
    for tag, unit in result.units.items():
        assert tag == tag.strip("./ ")
        assert "/" not in tag
        assert (checkout / unit.path).resolve().is_relative_to(root)
        assert (checkout / unit.directory).resolve().is_relative_to(root)
        for name in unit.bases:
            assert (checkout / unit.directory / name).resolve().is_relative_to(root), unit
        if not unit.error:
            recipe = recipes.load(unit.path, checkout)
            for stage in (*recipe.stages, recipe):
                assert not {"setup", "pre"} & {*stage.sections}
                sources = [item.source for item in stage.files if not item.stage]
                sources += [each.value for each in stage.headers if each.name.lower() == "from"]
                for source in () if recipe.is_dockerfile else sources:
                    reached = (checkout / unit.directory / source).resolve()
                    assert reached.is_relative_to(root), unit
                    assert source[:1] != "~", unit


WORDS = (
    *(
        "<script>alert(1)</script>",
        "</pre>",
        "</script>",
        "<!--",
        "-->",
        "]]>",
        '"',
        "'",
        "&",
        "&lt;",
    ),
    *("onerror=x", "<img src=x ", "javascript:alert(1)", "{{ 7*7 }}", "{% raw %}", "\\u003c"),
    *("\u2028", "\u202e", "\x1b[31m", "\0", "\r\n", "\ud800", "`", "${x}", "*/", ");", "://", "/"),
    *("a", " ", "..", "#", "?", "%2e", "\t", "<svg onload=x>", "<base href=//x>", "<style>"),
)


TEXTS = 10


def test_texts(place: Path) -> None:
    """Each field of a site has one of some texts, and its pages are looked through once."""

    def check(chance: random.Random) -> Counter[str]:
        texts = [
            "".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 9)))
            for _ in range(TEXTS)
        ]
        try:
            site = crafted(place, *texts)
            result = collection.load(site, "lab/tools")
            registry.write(site, result, "https://hub.invalid")
            shpc.write(site, result, "https://hub.invalid")
            pages.write(site, ["lab/tools"], "https://hub.invalid")
            for page in site.path.rglob("*.html"):
                parser = Elements()
                parser.feed(page.read_text())
                assert parser.elements <= ELEMENTS, page
                assert {*parser.scripts} <= {"hub.js", "compare.js"}, page
                assert not [name for name in parser.attributes if name.startswith("on")], page
                for link in parser.links:
                    assert link.startswith(("https://", "#")) or ":" not in link.partition("/")[0]
            for script in site.path.glob("search/*.js"):
                text = script.read_text()
                assert "<" not in text
                json.loads(text.partition(",")[2].removesuffix(");\n"))
        finally:
            shutil.rmtree(place / "site", ignore_errors=True)
        return Counter(shown=TEXTS)

    campaign.run("hostile texts", check, batch=TEXTS)
