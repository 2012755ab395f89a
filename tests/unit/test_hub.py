"""A hub's parts that need no build: Git, keys of recipes, what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.errors import HostError, SingbuildError, SourceError, UsageError
from singbuild.hub import feeds, safety, serve
from singbuild.hub.repository import Blob, Repository
from singbuild.hub.site import Site
from singbuild.hub.work import Settings, Survey, chosen, survey

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
Commit = Callable[..., str]
BUSYBOX = "Bootstrap: busybox\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SINGBUILD_TMPDIR", str(tmp_path))


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Run git in a new repository, lab/tools; its words have the date and the names of all."""
    directory = tmp_path / "lab" / "tools"
    directory.mkdir(parents=True)
    names = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada"), ("EMAIL", "a@b"), ("DATE", "2026-01-02T03:04:05Z"))
    }
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | names

    def run(*words: str) -> str:
        argv = ["git", "-C", str(directory), *words]
        return subprocess.run(
            argv, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    run("init", "-q", "-b", "main")
    return run


@pytest.fixture
def commit(git: Callable[..., str], tmp_path: Path) -> Commit:
    """Commit files of the repository; return the commit's id. A value that is None removes one."""

    def make(files: Mapping[str, str | None], subject: str = "a change") -> str:
        for name, text in files.items():
            path = tmp_path / "lab" / "tools" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", subject)
        return git("rev-parse", "HEAD")

    return make


def surveyed(tmp_path: Path, **settings: object) -> Survey:
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    number = len(list(tmp_path.glob("checkout*")))
    checkout = tmp_path / f"checkout{number}"
    checkout.mkdir()
    return survey(repository, repository.commit(), checkout, Settings(**settings))  # type: ignore[arg-type]


def test_only_what_is_committed_counts_and_branches_tags_and_ids_are_found(
    commit: Commit, git: Callable[..., str], tmp_path: Path
) -> None:
    first = commit({"Singularity": BUSYBOX}, "the first")
    git("tag", "v1")
    git("checkout", "-q", "-b", "next")
    second = commit({"tool.def": BUSYBOX})
    git("checkout", "-q", "main")
    (tmp_path / "lab" / "tools" / "dirty.def").write_text(BUSYBOX)
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    for name, wanted_id in (("", first), ("v1", first), ("next", second), (second[:9], second)):
        assert repository.commit(name).id == wanted_id
    assert repository.commit().subject == "the first"
    assert [*repository.files(repository.commit())] == ["Singularity"]
    with pytest.raises(UsageError, match="no commit nowhere"):
        repository.commit("nowhere")
    with pytest.raises(UsageError, match="no commit --output=x"):
        repository.commit("--output=x")


def test_a_whole_id_is_that_commit_whatever_a_branch_is_called(
    commit: Commit, git: Callable[..., str], tmp_path: Path
) -> None:
    first = commit({"Singularity": BUSYBOX})
    second = commit({"Singularity": f"{BUSYBOX}# other\n"})
    git("update-ref", f"refs/heads/{first}", second)
    git("update-ref", f"refs/tags/{first}", second)
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    assert repository.commit(first).id == first


@pytest.mark.parametrize("time", ["9" * 15, "9" * 30, "-5"])
def test_a_commit_of_no_time_has_one(git: Callable[..., str], tmp_path: Path, time: str) -> None:
    tree = git("write-tree")
    text = f"tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> {time} +0000\n\nx\n"
    (tmp_path / "text").write_text(text)
    path = tmp_path / "text"
    object_id = git("hash-object", "-t", "commit", "-w", "--literally", str(path))
    git("update-ref", "refs/heads/main", object_id)
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    commit = repository.commit("main")
    assert commit.id == object_id
    assert feeds.day(commit.time)


def test_several_at_once_fetch_one_repository(commit: Commit, tmp_path: Path) -> None:
    def fetch(_number: int) -> None:
        Repository(str(tmp_path / "lab" / "tools")).fetch()

    with ThreadPoolExecutor(6) as threads:
        for number in range(5):
            commit({"Singularity": f"# {number}"})
            assert [*threads.map(fetch, range(6))] == [None] * 6


def test_a_git_that_was_killed_in_a_fetch_holds_up_no_later_one(
    commit: Commit, tmp_path: Path
) -> None:
    commit({"Singularity": BUSYBOX})
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    mirror = next((tmp_path / "cache/hub").glob("*.git"))
    for name in ("HEAD", "config", "packed-refs", "refs/heads/main", "refs/hub/HEAD"):
        (mirror / f"{name}.lock").touch()
    newest = commit({"tool.def": BUSYBOX})
    repository.fetch()
    assert repository.commit().id == newest


def test_a_git_that_was_killed_in_init_holds_up_no_later_one(
    commit: Commit, tmp_path: Path
) -> None:
    """It writes HEAD before it makes the directory of objects."""
    newest = commit({"Singularity": BUSYBOX})
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    mirror = next((tmp_path / "cache/hub").glob("*.git"))
    shutil.rmtree(mirror)
    (mirror / "refs/heads").mkdir(parents=True)
    (mirror / "HEAD").write_text("ref: refs/heads/main\n")
    (mirror / "config.lock").touch()
    repository.fetch()
    assert repository.commit().id == newest


@pytest.mark.parametrize("source", ["ext::touch {}/pwned", "--upload-pack=touch {}/pwned"])
def test_a_repositorys_name_executes_nothing(tmp_path: Path, source: str) -> None:
    with pytest.raises((SourceError, UsageError)):
        Repository(source.format(tmp_path)).fetch()
    assert not (tmp_path / "pwned").exists()


def test_a_checkout_runs_no_filter_and_no_link_leads_out_of_it(
    commit: Commit, git: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "lab" / "tools"
    commit({".gitattributes": "* filter=bad export-subst\nhidden export-ignore\n"})
    for name, target in {
        "inside": "a/file",
        "absolute": str(tmp_path / "secret"),
        "above": "../../secret",
        "a/b/c/up": "../../..",
        "a/b/c/out": "up/../../secret",
        "circle": "circle",
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(target)
    commit({"a/file": "$Format:%H$", "hidden": "x", "run.sh": "#!/bin/sh\n"})
    git("update-index", "--chmod=+x", "run.sh")
    git("commit", "-q", "-m", "executable")
    repository = Repository(str(place))
    repository.fetch()
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    left_out = repository.check_out(repository.files(repository.commit()).values(), checkout)
    assert left_out == ["a/b/c/out", "above", "absolute", "circle"]
    assert (checkout / "inside").read_text() == "$Format:%H$"
    assert (checkout / "hidden").exists()
    assert (checkout / "run.sh").stat().st_mode & 0o777 == 0o755
    for path in checkout.rglob("*"):
        assert path.resolve().is_relative_to(checkout.resolve())


def test_a_path_that_no_directory_can_hold_is_refused(
    commit: Commit, git: Callable[..., str], tmp_path: Path
) -> None:
    commit({"file": "x"})
    blob = git("rev-parse", "HEAD:file")
    entry = b"100644 ..\0" + bytes.fromhex(blob)
    (tmp_path / "tree").write_bytes(entry)
    tree = git("hash-object", "-t", "tree", "-w", "--literally", str(tmp_path / "tree"))
    bad = git("commit-tree", tree, "-m", "hostile")
    git("update-ref", "refs/heads/main", bad)
    repository = Repository(str(tmp_path / "lab" / "tools"))
    repository.fetch()
    with pytest.raises(SourceError, match="impossible path"):
        repository.files(repository.commit())


def test_only_what_a_recipe_reads_changes_its_key(commit: Commit, tmp_path: Path) -> None:
    commit(
        {
            "copy.def": f"{BUSYBOX}%files\n  data/*.csv /data\n  script.py /bin/script\n",
            "data/one.csv": "1",
            "data/one.txt": "1",
            "script.py": "pass",
            "plain.def": BUSYBOX,
            "plain.lock.yaml": "version: 1\n",
            "app/Dockerfile": "FROM scratch\nCOPY src /src\nCOPY --from=x /a /a\n",
            "app/src/main.c": "int main;",
            "app/notes": "n",
            "child.def": "Bootstrap: localimage\nFrom: plain.sif\n",
            "start.def": "Bootstrap: localimage\nFrom: data/base.sif\n",
            "archive.def": "Bootstrap: docker-archive\nFrom: data/base.tar:1.0\n",
            "data/base.sif": "s",
            "data/base.tar": "t",
        }
    )

    def keys() -> dict[str, str]:
        return {tag: unit.key for tag, unit in surveyed(tmp_path).units.items()}

    before = keys()
    for path, changed in {
        "data/one.txt": set(),
        "README": set(),
        "app/notes": set(),
        "data/one.csv": {"copy"},
        "data/two.csv": {"copy"},
        "script.py": {"copy"},
        "plain.lock.yaml": {"plain", "child"},
        "data/base.sif": {"start"},
        "data/base.tar": {"archive"},
        "app/src/new.c": {"latest"},
        "app/Dockerfile": {"latest"},
    }.items():
        text = "FROM scratch\nCOPY src /source\n" if path == "app/Dockerfile" else "changed"
        commit({path: text})
        after = keys()
        assert {tag for tag in after if before[tag] != after[tag]} == changed, path
        before = after


def test_a_recipe_starts_from_what_another_makes_and_circles_are_told(
    commit: Commit, tmp_path: Path
) -> None:
    start = "Bootstrap: localimage\nFrom: {}\n"
    commit(
        {
            "Singularity.z-base": BUSYBOX,
            "a.def": start.format("z-base.sif"),
            "b.def": start.format("a.img"),
            "committed.def": start.format("file.sif"),
            "file.sif": "",
        }
    )
    outcome = surveyed(tmp_path)
    order = [*outcome.units]
    assert order.index("z-base") < order.index("a") < order.index("b")
    assert outcome.units["b"].bases == {"a.img": "a"}
    assert outcome.units["committed"].bases == {}
    assert [unit.tag for unit in chosen(outcome, Settings(only=("b",)))] == ["z-base", "a", "b"]
    commit({"Singularity.z-base": start.format("b.sif")})
    with pytest.raises(SingbuildError, match="circle: a -> z-base -> b -> a"):
        surveyed(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{BUSYBOX}%setup\n  touch /tmp/x\n", "%setup would run on this host"),
        (f"{BUSYBOX}%pre\n  touch /tmp/x\n", "%pre would run on this host"),
        (f"{BUSYBOX}%files\n  /etc/shadow /x\n", "/etc/shadow is outside the repository"),
        (f"{BUSYBOX}%files\n  ../../x /x\n", "is outside the repository"),
        (f"{BUSYBOX}%files\n  a/../../x /x\n", "is outside the repository"),
        ("Bootstrap: localimage\nFrom: /srv/other.sif\n", "From names a file outside"),
        ("Bootstrap: localimage\nFrom: ../other.sif\n", "From names a file outside"),
        ("Bootstrap: docker-archive\nFrom: /home/ada/a.tar\n", "From names a file outside"),
        ("Bootstrap: yum\nMirrorURL: file:///srv\nInclude: a\n", "MirrorURL names a file outside"),
        ("Bootstrap: busybox\nMirrorURL: FILE:///srv/b\n", "MirrorURL names a file outside"),
        ("Bootstrap: docker-daemon\nFrom: private:1\n", "takes images of this host"),
    ],
)
def test_a_recipe_that_would_leave_its_repository_is_refused_by_line(
    commit: Commit, tmp_path: Path, text: str, says: str
) -> None:
    commit({"bad.def": text, "good.def": f"{BUSYBOX}%files\n  good.def /x\n"})
    outcome = surveyed(tmp_path)
    assert says in outcome.units["bad"].error
    assert re.match(r"bad\.def:[1-9]", outcome.units["bad"].error)
    assert not outcome.units["good"].error


def test_who_trusts_a_repository_may_let_it_run_on_the_host(commit: Commit, tmp_path: Path) -> None:
    commit({"setup.def": f"{BUSYBOX}%setup\n  true\n"})
    assert not surveyed(tmp_path, may_run_on_host=True).units["setup"].error


PATHS = st.lists(st.sampled_from(["a", "b", "..", ".", "etc", "~"]), min_size=1, max_size=6)


@given(parts=PATHS, start=st.sampled_from([".", "a", "a/b"]), absolute=st.booleans())
def test_no_path_that_leaves_the_checkout_is_let_through(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], start: str, absolute: bool
) -> None:
    path = "/" * absolute + "/".join(parts)
    root = "/top/checkout"
    reached = os.path.normpath(os.path.join(root, start, path))
    leaves = reached != root and not reached.startswith(f"{root}/")
    if leaves:
        assert safety._leaves(start, path)


def test_recipe_errors_name_the_repositorys_path(commit: Commit, tmp_path: Path) -> None:
    commit({"sub/bad.def": "Bootstrap busybox\n"})
    error = surveyed(tmp_path).units["bad"].error
    assert error.startswith("sub/bad.def:1")
    assert str(tmp_path) not in error


def test_blobs_that_are_no_files_are_no_recipes() -> None:
    assert not Blob("Singularity", 0o120000, "", 9).is_file
    assert not Blob("Singularity", 0o160000, "", 0).is_file


def test_what_serving_lacks_is_installed_where_singbuild_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)  # as if it were not installed
    with pytest.raises(HostError) as caught:
        serve.serve(Site(tmp_path), "127.0.0.1", 0, print)
    assert f"{sys.prefix}/bin/python -m pip install waitress" in str(caught.value)


@pytest.mark.parametrize("host", ["", "no host"])
def test_a_host_that_is_none_is_told(host: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be listened on"):
        serve.serve(Site(tmp_path), host, 0, print)
