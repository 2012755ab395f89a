"""Dockerfiles as recipes: whole builds of images from a registry, cached, locked, failing, run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.bench.builds import Build, User
from tests.bench.docker_registry import genuine, push
from tests.bench.dockerfile_features import FEATURES, base_image, context
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT
from tests.host.privilege.test_privilege import MODES

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """The name of an image with a shell and users."""
    with shared_directory() as directory, genuine(directory) as server:
        push(base_image(), server, "base")
        yield f"{server}/base"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> Callable[[str], Path]:
    """Write a Dockerfile beside the usual files; {base} is the image. The cache is its own."""
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    where = tmp_path / "context"
    where.mkdir()
    context(where, FEATURES[0], base, base)

    def written(text: str) -> Path:
        (where / "Dockerfile").write_text(text.replace("{base}", base))
        return where / "Dockerfile"

    return written


def inside(image: Path, verb: str, *argv: str) -> str:
    words = [sys.executable, "-m", "singrun", verb, str(image), *argv]
    return subprocess.check_output(words, cwd=ROOT, text=True)


def hits(output: str) -> list[str]:
    return re.findall(r"cache: (\S+): hit", output)


TEXT = """FROM {base} AS tool
RUN mkdir -p /opt/tool && echo tool > /opt/tool/file && chown joe /opt/tool/file

FROM {base}
ENV GREETING="hello world"
COPY d/one a.txt /srv/data/
COPY --from=tool /opt/tool /opt/tool
RUN cat /opt/tool/file /srv/data/one > /srv/all
USER joe
RUN <<END
id -un > /home/joe/who
END
LABEL version=1
ENTRYPOINT ["/bin/echo"]
CMD ["default"]
"""


def test_a_build_runs_as_docker_would(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    done = singbuild(write(TEXT), "a.img")
    assert done.returncode == 0, done.stderr
    image = tmp_path / "a.img"
    assert inside(image, "run") == "default\n"
    assert inside(image, "run", "given") == "given\n"
    assert inside(image, "exec", "/bin/sh", "-c", "echo $GREETING") == "hello world\n"
    assert inside(image, "exec", "/bin/cat", "/srv/all") == "tool\n1\n"
    listed = inside(image, "exec", "/bin/stat", "-c", "%u %a", "/opt/tool/file", "/srv/data/a.txt")
    assert listed == "7 644\n0 644\n"
    note = json.loads(inside(image, "exec", "/bin/cat", "/.singularity.d/container.json"))
    assert (note["Entrypoint"], note["Cmd"], note["User"]) == (["/bin/echo"], ["default"], "joe")


def test_each_instruction_is_a_step_in_the_cache(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    assert singbuild(write(TEXT), "a.img").returncode == 0
    again = singbuild(write(TEXT), "b.img")
    assert hits(again.stdout) == ["image"]
    done = singbuild(write(TEXT.replace("> /srv/all", "> /srv/other")), "c.img")
    assert hits(done.stdout) == ["copy-2"]
    assert "] tool/" not in done.stdout
    done = singbuild(write(TEXT.replace("version=1", "version=2")), "e.img")
    assert hits(done.stdout) == ["run-4"]
    (tmp_path / "context/d/one").write_text("changed\n")
    done = singbuild(write(TEXT), "d.img")
    assert "changed: d/one" in done.stdout
    assert hits(done.stdout)[0] == "tool/run-1"
    plain = singbuild("--no-cache", write(TEXT), "f.img")
    assert plain.returncode == 0, plain.stderr
    assert (tmp_path / "d.img").read_bytes() == (tmp_path / "f.img").read_bytes()


def test_what_fails_names_its_line_and_leaves_nothing(
    write: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    done = singbuild(write("FROM {base}\n\nRUN echo soon && \\\n  exit 3\n"), "a.img")
    assert done.returncode == 7
    assert "Dockerfile:3: RUN failed with status 3" in done.stderr
    assert "soon" in done.stderr
    done = singbuild(write("FROM {base}\nCOPY nowhere /x\n"), "a.img")
    assert done.returncode == 3
    assert "Dockerfile:2: the context has no nowhere" in done.stderr
    done = singbuild(write("FROM {base}\nUSER nobody-here\nRUN true\n"), "a.img")
    assert done.returncode == 7
    assert "Dockerfile:3: the image has no user nobody-here" in done.stderr
    nothing_left()


def test_the_lock_has_images_and_files(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = write(TEXT)
    assert singbuild("lock", path).returncode == 0
    lock = yaml.safe_load((tmp_path / "context/Dockerfile.lock.yaml").read_text())
    assert {name.partition(" ")[2] for name in lock["files"]} == {"d/one", "a.txt"}
    assert lock["stages"]["tool"]["pins"]["digest"].startswith("sha256:")
    assert singbuild("--locked", path, "a.img").returncode == 0
    (tmp_path / "context/a.txt").write_text("changed\n")
    done = singbuild("--locked", path, "b.img")
    assert done.returncode == 9
    assert "a.txt: locked sha256:" in done.stderr


def test_mounts_are_there_and_leave_nothing(
    write: Callable[[str], Path],
    singbuild: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "sesame-open-the-door")
    text = """FROM {base}
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/fast \\
    --mount=type=secret,id=t,target=/some/token,mode=0444 --mount=type=secret,id=t,env=T \\
    --mount=type=bind,source=d,target=/bound \\
    ls /cache > /srv/before; touch /cache/kept /fast/x; wc -c < /some/token > /srv/length; \\
    [ "$T" = "$(cat /some/token)" ] && cat /bound/one > /srv/one; touch /bound/x || true
"""
    for name, before in (("a.img", ""), ("b.img", "kept\n")):
        monkeypatch.setenv("TOKEN", "sesame-open-the-door")
        done = singbuild("--no-cache", "--secret=id=t,env=TOKEN", write(text), name)
        assert done.returncode == 0, done.stderr
        image = tmp_path / name
        assert inside(image, "exec", "/bin/cat", "/srv/before") == before
        assert inside(image, "exec", "/bin/cat", "/srv/length", "/srv/one") == "20\n1\n"
        result = inside(image, "exec", "/bin/ls", "/")
        assert not {"cache", "fast", "some", "bound"} & set(result.split())
    assert not (tmp_path / "context/d/x").exists()
    leaks = text.replace("touch /bound/x", "cat /some/token > /srv/leak")
    done = singbuild("--no-cache", "--secret=id=t,env=TOKEN", write(leaks), "c.img")
    assert done.returncode == 7
    assert "the secret 't' is in the image" in done.stderr


def test_a_mount_begins_at_the_working_directory_and_a_program_may_be_offline(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = write(
        """FROM {base}
WORKDIR /app
RUN --mount=source=a.txt,target=a.txt --mount=type=bind,source=d,target=./e cat a.txt e/one > /srv/o
RUN --network=none tail -n +3 /proc/net/dev > /srv/none; grep -q 127.0.0.1 /proc/net/fib_trie
RUN tail -n +3 /proc/net/dev > /srv/some
"""
    )
    done = singbuild(path, "a.img")
    assert done.returncode == 0, done.stderr
    image = tmp_path / "a.img"
    assert inside(image, "exec", "/bin/cat", "/srv/o") == "a\n1\n"
    names = inside(image, "exec", "/bin/cat", "/srv/none").replace(":", ": ").split()[::17]
    assert names == ["lo:"]
    # The same in the host's namespace, if it has more than one.
    lines = len(Path("/proc/net/dev").read_text().splitlines()) - 2
    assert inside(image, "exec", "/bin/cat", "/srv/some").count("\n") == lines


def test_what_a_pattern_does_not_match_is_not_copied(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    """package.json yarn.lock* package-lock.json*: as BuildKit has it, of which one may be there."""
    text = "FROM {base}\nCOPY a.txt none.lock* d/*.none /srv/n/\nCOPY .npm* /srv/n/\n"
    done = singbuild(write(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert "nothing is called none.lock*" in done.stdout
    assert inside(tmp_path / "a.img", "exec", "/bin/ls", "/srv/n") == "a.txt\n"
    (tmp_path / "context/none.lock2").write_text("there\n")
    done = singbuild(tmp_path / "context/Dockerfile", "b.img")
    assert done.returncode == 0, done.stderr
    assert inside(tmp_path / "b.img", "exec", "/bin/ls", "/srv/n") == "a.txt\nnone.lock2\n"


def test_copies_below_their_parents(
    write: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    text = """FROM {base} AS one
COPY --parents d/*.log a.txt d/deep /srv/p/
COPY --parents ./d/./deep/er/three /srv/q
COPY --parents **/one **/three /srv/r/
FROM {base}
COPY --from=one --parents /srv/./p /srv/./q /srv/./r /all/
"""
    done = singbuild(write(text), "a.img")
    assert done.returncode == 0, done.stderr
    listed = inside(tmp_path / "a.img", "exec", "/bin/find", "/all", "-type", "f")
    assert sorted(listed.split()) == [
        *(f"/all/p/{name}" for name in ("a.txt", "d/deep/er/three", "d/two.log")),
        "/all/q/deep/er/three",
        *(f"/all/r/{name}" for name in ("d/deep/er/three", "d/one")),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_mounts_owner_may_be_one_that_the_builder_does_not_have(
    user: User, base: str, mode: str
) -> None:
    """chown(2) fails with EINVAL for an id that a user namespace does not map."""
    text = f"FROM {base}\nRUN --mount=type=cache,target=/srv/cache,uid=70000 touch /srv/cache/f\n"
    (user.directory / "Dockerfile").write_text(text)
    process = user.start("--privilege", mode, "Dockerfile", "a.img")
    output = process.communicate()[1]
    assert process.returncode == 0, output
