"""The builder's verbs in the words of 3.x: what they make, print and end with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import docker_images, docker_registry
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

RECIPE = """\
Bootstrap: localimage
From: {image}
%labels
    Owner ada
%environment
    export A=1
%runscript
    echo ran "$@"
%test
    exit 3
%help
    Helps.
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with lab/mini:1, a busybox."""
    with docker_registry.genuine(tmp_path_factory.mktemp("registry")) as name:
        busybox = Path(str(shutil.which("busybox"))).read_bytes()
        layer = docker_images.archive(
            docker_images.directory("bin"),
            docker_images.file("bin/busybox", busybox, mode=0o755),
            *(docker_images.hardlink(f"bin/{each}", "bin/busybox") for each in ("sh", "echo")),
        )
        docker_registry.push(docker_images.image(layer), name, "lab/mini", "1")
        yield name


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("image")
    return images.ext3(images.fill(base / "tree"), base / "i.img", boot=images.LAUNCH_LINE)


def typed(where: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "SINGBUILD_CACHEDIR": str(where / "cache")} | more
    return subprocess.run(
        [ROOT / "bin/singularity", *words],
        cwd=where,
        capture_output=True,
        text=True,
        env=os.environ | own,
        timeout=120 * PATIENCE,
    )


@pytest.mark.parametrize(
    ("words", "more", "result"),
    [
        (["docker://{}/lab/mini:1"], {}, "mini_1.sif"),
        (["--name", "a.sif", "docker://{}/lab/mini:1"], {}, "a.sif"),
        (["-F", "a.sif", "docker://{}/lab/mini:1"], {}, "a.sif"),
        (["docker://{}/lab/mini:1", "a.sif"], {}, "a.sif"),
        (
            ["--dir", "d", "--nohttps", "--disable-cache", "docker://{}/lab/mini:1"],
            {},
            "d/mini_1.sif",
        ),
        (["--name", "a", "docker://{}/lab/mini:1"], {"SINGULARITY_PULLFOLDER": "d"}, "d/a"),
        (["docker://{}/lab/mini:1"], {"APPTAINER_PULLDIR": "d"}, "d/mini_1.sif"),
    ],
)
def test_pull_makes_the_file_that_is_named(
    tmp_path: Path, server: str, words: list[str], more: dict[str, str], result: str
) -> None:
    (tmp_path / "d").mkdir()
    done = typed(tmp_path, "pull", *(word.format(server) for word in words), **more)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "INFO:    Build complete" in done.stderr
    assert typed(tmp_path, "exec", tmp_path / result, "echo", "hi").stdout == "hi\n"


def test_what_cannot_be_pulled_is_fatal_and_known_by_the_registrys_words(
    tmp_path: Path, server: str
) -> None:
    done = typed(tmp_path, "pull", "a.sif", f"docker://{server}/lab/mini:none")
    assert (done.returncode, done.stdout) == (255, "")
    assert "FATAL:   " in done.stderr
    assert "manifest unknown" in done.stderr
    (tmp_path / "mini_1.sif").touch()
    done = typed(tmp_path, "pull", f"docker://{server}/lab/mini:1")
    assert done.returncode == 255
    assert "exists" in done.stderr
    done = typed(tmp_path, "pull", "mini")
    assert (done.returncode, done.stderr.splitlines()[0]) == (255, "FATAL:   cannot pull mini")
    done = typed(tmp_path, "pull", "a", "b", f"docker://{server}/lab/mini:1")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("name", ["/etc", "/dev/null"])
def test_what_is_no_program_ends_as_in_3_x(tmp_path: Path, image: Path, name: str) -> None:
    done = typed(tmp_path, "exec", image, name)
    assert (done.returncode, done.stderr) == (255, f"FATAL:   {name}: permission denied\n")


def test_push_and_pull_of_files_and_a_login_that_fails(
    tmp_path: Path, server: str, image: Path
) -> None:
    done = typed(tmp_path, "push", image, f"oras://{server}/lab/file:1")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = typed(tmp_path, "pull", f"oras://{server}/lab/file:1")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "file_1.sif").read_bytes() == image.read_bytes()
    words = ("registry", "login", "-u", "ada", "-p", "secret", "docker://127.0.0.1:1")
    done = typed(tmp_path, *words)
    assert (done.returncode, done.stdout) == (255, "")
    done = typed(tmp_path, "remote", "logout", "docker://127.0.0.1:1", HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("verb", ["registry", "remote"])
def test_the_registries_for_which_there_is_a_password(tmp_path: Path, verb: str) -> None:
    entry = {"auth": "YTpi"}
    names = ("https://index.docker.io/v1/", "a.example:5000", "b.example/part")
    settings = {"auths": dict.fromkeys(names, entry), "credHelpers": {"c.example": "absent"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"credsStore": "test"}))
    helper = '#!/bin/sh\n[ "$1" = list ] && echo \'{"https://d.example": "ada"}\'\n'
    images.write_script(tmp_path / "docker-credential-test", helper)
    (tmp_path / "registries.conf").write_text(
        '[[registry]]\nlocation = "a.example:5000"\ninsecure = true\n'
    )
    variables = {
        "DOCKER_CONFIG": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf"),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = typed(tmp_path, verb, "list", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["URI", "SECURE?"],
        ["docker://a.example:5000", "✗!"],
        *([f"docker://{name}", "✓"] for name in ("b.example/part", "c.example", "d.example")),
        ["docker://docker.io", "✓"],
    ]
    (tmp_path / "config.json").write_text("[")
    done = typed(tmp_path, verb, "list", **variables)
    assert (done.returncode, done.stdout.split()) == (0, ["URI", "SECURE?"])
    assert "config.json" in done.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["absent"], 255),
        (["/bin/absent"], 255),
        (["/etc/passwd"], 255),
        (["sh", "-c", "exit 7"], 7),
        (["of-the-image"], 5),
        (["sh", "-c", "echo $PATH"], 0),
    ],
)
def test_a_command_that_is_not_there_ends_with_255_as_in_3(
    tmp_path: Path, words: list[str], status: int
) -> None:
    tree = images.fill(tmp_path / "tree")
    (tree / "own").mkdir()
    images.write_script(tree / "own/of-the-image", "#!/bin/sh\nexit 5\n")
    (tree / ".singularity.d/env/90-environment.sh").write_text("export PATH=/own:$PATH\n")
    if words == ["absent"]:  # nor is there a shell to look for it
        bare = images.fill(tmp_path / "bare")
        for name in ("bin/sh", ".singularity.d/actions/exec"):
            (bare / name).unlink()
        assert typed(tmp_path, "exec", bare, "absent").returncode == 255
        assert typed(tmp_path, "exec", bare, "echo", "hi").stdout == "hi\n"
    done = typed(tmp_path, "exec", tree, *words, PATH=f"{os.environ['PATH']}:/of/the/host")
    assert done.returncode == status, done
    assert ("FATAL:   " in done.stderr) == (status == 255)
    assert "/of/the/host" not in done.stdout


@pytest.mark.parametrize("kind", ["uri", "archive", "image", "recipe"])
def test_build_takes_the_target_first(tmp_path: Path, server: str, image: Path, kind: str) -> None:
    source = {"uri": f"docker://{server}/lab/mini:1", "image": str(image)}.get(kind, kind)
    if kind == "recipe":
        (tmp_path / kind).write_text(RECIPE.format(image=image))
    if kind == "archive":
        words = [f"docker://{server}/lab/mini:1", f"docker-archive:{tmp_path}/saved.tar:mini:1"]
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", *words], check=True)
        source = f"docker-archive://{tmp_path}/saved.tar"
    words = ["build", "--fakeroot", "--fix-perms", "--notest", "a.sif", source]
    done = typed(tmp_path, *words)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert typed(tmp_path, "exec", "a.sif", "echo", "hi").stdout == "hi\n"
    done = typed(tmp_path, *words)
    assert done.returncode == 255
    assert "exists" in done.stderr
    assert typed(tmp_path, "build", "--force", *words[1:]).returncode == 0


def test_a_sandbox_is_made_changed_and_becomes_an_image_again(
    tmp_path: Path, server: str, image: Path
) -> None:
    words = ("build", "--sandbox", "--fix-perms")
    done = typed(tmp_path, *words, "tree", f"docker://{server}/lab/mini:1")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert typed(tmp_path, "exec", "--writable", "tree", "sh", "-c", "echo x >/new").returncode == 0
    assert typed(tmp_path, *words, "tree", str(image)).returncode == 255
    assert typed(tmp_path, "build", "a.sif", "tree").returncode == 0
    assert b"SIF_MAGIC" in (tmp_path / "a.sif").read_bytes()[:64]
    assert typed(tmp_path, "exec", "a.sif", "sh", "-c", "echo /new").stdout == "/new\n"
    (tmp_path / "more.def").write_text("Bootstrap: localimage\nFrom: x\n%post\n    echo > /more\n")
    done = typed(tmp_path, "build", "--update", "--sandbox", "tree", "more.def")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tree/more").exists()
    assert (tmp_path / "tree/new").exists()


def test_a_section_that_fails_is_fatal_and_sections_can_be_chosen(
    tmp_path: Path, image: Path
) -> None:
    (tmp_path / "r.def").write_text(RECIPE.format(image=image))
    done = typed(tmp_path, "build", "a.sif", "r.def")
    assert (done.returncode, done.stdout) == (255, "")
    assert "FATAL:   " in done.stderr
    done = typed(tmp_path, "build", "--section", "labels,help", "a.sif", "r.def")
    assert done.returncode == 0, done.stderr
    assert "Owner: ada" in typed(tmp_path, "inspect", "a.sif").stdout
    assert typed(tmp_path, "run", "a.sif", "x").stdout == "run:<x>\n"
    assert typed(tmp_path, "build", "--section", "psot", "b.sif", "r.def").returncode == 1
    done = typed(tmp_path, "build", "--remote", "b.sif", "r.def")
    assert done.returncode == 1
    assert "no service is asked" in done.stderr


def test_inspect_has_the_schema_and_the_letters_of_3(tmp_path: Path, image: Path) -> None:
    (tmp_path / "r.def").write_text(RECIPE.format(image=image))
    assert typed(tmp_path, "build", "-T", "a.sif", "r.def").returncode == 0

    def attributes(*words: str) -> dict[str, object]:
        document = json.loads(typed(tmp_path, "inspect", *words, "a.sif").stdout)
        assert document["type"] == "container"
        return dict(document["data"]["attributes"])

    derived = {"org.label-schema.build-arch": "amd64", "org.label-schema.schema-version": "1.0"}
    assert attributes("--json") == {"labels": {"Owner": "ada"} | derived}
    outcome = attributes("-e", "-d", "-l", "-r", "-H", "-t", "--json")
    assert set(outcome) == {"labels", "environment", "deffile", "runscript", "helpfile", "test"}
    assert outcome["environment"]["/.singularity.d/env/90-environment.sh"] == "    export A=1"  # type: ignore[index]
    assert attributes("--all").keys() >= outcome.keys()
    output = typed(tmp_path, "inspect", "-l", "-r", "-H", "a.sif").stdout
    assert output.startswith('#!/bin/sh\n    echo ran "$@"\n    Helps.\nOwner: ada\norg.label-')
    for letter, answer in (("-l", "Owner: ada"), ("-r", "echo ran"), ("-H", "Helps."), ("-t", "3")):
        assert answer in typed(tmp_path, "inspect", letter, "a.sif").stdout
    assert typed(tmp_path, "run-help", "a.sif").stdout == "    Helps.\n"
    assert typed(tmp_path, "run-help", image).stdout.startswith("No help sections")
    assert typed(tmp_path, "apps", "a.sif").stdout == ""
    done = typed(tmp_path, "inspect", "absent.sif")
    assert (done.returncode, done.stderr[:9]) == (255, "FATAL:   ")


def test_inspect_of_a_directory(tmp_path: Path) -> None:
    tree = images.fill(tmp_path / "tree")
    (tree / ".singularity.d/labels.json").write_text('{"Owner": "ada"}')
    document = json.loads(typed(tmp_path, "inspect", "--json", tree).stdout)
    assert document["data"]["attributes"]["labels"]["Owner"] == "ada"
    (tree / ".singularity.d/labels.json").unlink()
    (tree / ".singularity.d/labels.json").symlink_to("/etc/passwd")  # the host's is not shown
    assert "root" not in typed(tmp_path, "inspect", tree).stdout


def test_the_cache_is_listed_and_cleaned(tmp_path: Path, server: str) -> None:
    more = {"SINGBUILD_CACHEDIR": "", "SINGULARITY_CACHEDIR": str(tmp_path)}
    words = (f"docker://{server}/lab/mini:1", "echo", "hi")
    assert typed(tmp_path, "pull", words[0], **more).returncode == 0
    assert (tmp_path / "singbuild").stat().st_mode & 0o777 == 0o700
    listing = typed(tmp_path, "cache", "list", "-v", **more).stdout
    assert str(tmp_path / "singbuild") in listing
    done = typed(tmp_path, "cache", "clean", **more)  # nobody answers
    assert done.returncode != 0
    assert typed(tmp_path, "cache", "list", "-v", **more).stdout == listing
    assert typed(tmp_path, "cache", "clean", "--days", "1", "-f", **more).returncode == 0
    assert typed(tmp_path, "cache", "list", "-v", **more).stdout == listing
    assert typed(tmp_path, "cache", "clean", "--force", **more).returncode == 0
    assert "There are 0 file(s)" in typed(tmp_path, "cache", "list", **more).stdout


def test_an_overlay_is_made_and_written(tmp_path: Path, image: Path) -> None:
    done = typed(tmp_path, "overlay", "create", "--size", "64", "--create-dir", "/mine", "o.img")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert typed(tmp_path, "exec", "-o", "o.img", image, "touch", "/mine/x").returncode == 0
    assert typed(tmp_path, "exec", "-o", "o.img:ro", image, "ls", "/mine").stdout == "x\n"
    assert typed(tmp_path, "overlay", "create", "o.img").returncode == 255


def test_buildcfg_is_lines_of_names_and_values(tmp_path: Path) -> None:
    lines = typed(tmp_path, "buildcfg").stdout.splitlines()
    assert {"PACKAGE_NAME", "SESSIONDIR"} <= {line.partition("=")[0] for line in lines}


def test_the_objects_of_a_sif(tmp_path: Path, image: Path) -> None:
    (tmp_path / "r.def").write_text(f"Bootstrap: localimage\nFrom: {image}\n%labels\nA b\n")
    assert typed(tmp_path, "build", "-T", "a.sif", "r.def").returncode == 0
    lines = typed(tmp_path, "sif", "list", "a.sif").stdout.splitlines()
    assert lines[1].split("|")[0].strip() == "ID"
    rows = [[cell.strip() for cell in line.split("|")] for line in lines[3:]]
    types = {row[4]: row for row in rows}
    dumped = typed(tmp_path, "sif", "dump", types["Def.FILE"][0], "a.sif")
    assert dumped.stdout == (tmp_path / "r.def").read_text()
    begin, end = map(int, types["Def.FILE"][3].split("-"))
    assert end - begin == len(dumped.stdout)
    assert any(name.startswith("FS (") and "/*System/" in name for name in types)
    for words, answer in {
        ("dump", "77", "a.sif"): "there is no object 77",
        ("list", "r.def"): "r.def is no SIF",
        ("list", "absent"): "absent",
        ("del", "1", "a.sif"): "written whole",
    }.items():
        done = typed(tmp_path, "sif", *words)
        assert (done.returncode, done.stdout) == (255, "")
        assert answer in done.stderr


@pytest.mark.parametrize(
    ("line", "status", "answer"),
    [
        ("remote use x", 255, "say docker://HOST/NAME"),
        ("remote add x y", 255, "say docker://HOST/NAME"),
        ("remote get-login-password", 255, ".docker/config.json"),
        ("overlay seal mine.img a.sif", 255, "--overlay"),
        ("siftool add a.sif b", 255, "singbuild convert"),
        ("image.expnd a.img", 1, "Did you mean expand?"),
        ("sif lst", 1, "Did you mean list?"),
        ("remote logn", 1, "Did you mean login?"),
        ("buildcfg NONSENSE", 255, "there is no NONSENSE"),
    ],
)
def test_what_is_not_had_is_refused_in_a_sentence(
    tmp_path: Path, line: str, status: int, answer: str
) -> None:
    done = typed(tmp_path, *line.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("FATAL:   ")
    assert answer in done.stderr


def test_buildcfg_gives_one_value(tmp_path: Path) -> None:
    assert typed(tmp_path, "buildcfg", "PACKAGE_NAME").stdout == "singbuild\n"
