"""/.singularity.d is there before the sections, and what they write to it holds in the image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import Build
from tests.bench.docker_images import archive, directory, file, image, symlink, write_layout
from tests.host.build.test_build import cat

pytestmark = pytest.mark.root
Recipe = Callable[[str], Path]
HEAD = "Bootstrap: busybox\n"


def singrun(*words: str | Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "singrun", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **more},
        cwd="/",
    )
    return done.stdout + done.stderr


@pytest.fixture
def built(recipe: Recipe, singbuild: Build, tmp_path: Path) -> Callable[[str], Path]:
    """Build a recipe's text; return the image."""

    def build(text: str, *options: str) -> Path:
        done = singbuild("build", "--force", *options, recipe(text), "a.img")
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / "a.img"

    return build


@pytest.mark.parametrize("name", ["SINGULARITY_ENVIRONMENT", "APPTAINER_ENVIRONMENT"])
def test_the_variable_for_variables(name: str, built: Callable[[str], Path]) -> None:
    text = f"{HEAD}%post\n    echo 'export COLOUR=blue' >> ${name}\n%environment\nexport A=1\n"
    output = singrun("exec", built(text), "sh", "-c", 'echo "$COLOUR $A"')
    assert output == "blue 1\n"


def test_setup_gets_them_as_paths_of_the_host(built: Callable[[str], Path]) -> None:
    text = (
        f"{HEAD}%setup\n"
        "    echo 'export COLOUR=blue' >> $APPTAINER_ENVIRONMENT\n"
        "    echo 'made in setup' >> $SINGULARITY_LABELS\n"
        "    cp $SINGULARITY_BUILDDEF $SINGULARITY_ROOTFS/recipe.copy\n"
        "%post\n    test $COLOUR = blue\n"
    )
    image = built(text)
    assert singrun("exec", image, "sh", "-c", "echo $COLOUR") == "blue\n"
    assert json.loads(cat(image, "/.singularity.d/labels.json")) == {"made": "in setup"}
    assert cat(image, "/recipe.copy") == text


@pytest.mark.parametrize("name", ["SINGULARITY_LABELS", "APPTAINER_LABELS"])
def test_the_variable_for_labels(name: str, built: Callable[[str], Path]) -> None:
    text = (
        f"{HEAD}%post\n    echo 'built \"on a day\"' >> ${name}\n%labels\n    A 1\n    built no\n"
    )
    image = built(text)
    assert json.loads(cat(image, "/.singularity.d/labels.json")) == {"A": "1", "built": "on a day"}
    assert "build.labels" not in singrun("exec", image, "ls", "-a", "/")


def test_a_script_of_its_own_in_env(built: Callable[[str], Path]) -> None:
    text = f"{HEAD}%post\n    echo 'export COLOUR=blue' > /.singularity.d/env/99-mine.sh\n"
    assert singrun("exec", built(text), "sh", "-c", "echo $COLOUR") == "blue\n"


@pytest.mark.parametrize(
    "write",
    [
        "cat x >> /environment",
        "mv x /environment",
        "rm /environment; cp x /environment",
    ],
)
@pytest.mark.parametrize("section", ["", "%environment\n    export A=1\n"])
def test_what_post_writes_as_environment_holds(
    write: str, section: str, built: Callable[[str], Path]
) -> None:
    text = f"{HEAD}{section}%post\n    echo 'export COLOUR=blue' > x\n    {write}\n"
    image = built(text)
    assert singrun("exec", image, "sh", "-c", "echo $COLOUR") == "blue\n"
    assert singrun("exec", image, "readlink", "/environment") == (
        ".singularity.d/env/90-environment.sh\n"
    )


def test_environment_is_there_for_a_post_that_names_it(built: Callable[[str], Path]) -> None:
    text = f"{HEAD}%environment\n    export A=1\n%post\n    . /environment\n    test $A = 1\n"
    built(text)
    changed = text.replace("A=1", "A=2")
    with pytest.raises(AssertionError, match="%post failed"):
        built(changed)  # the cache must not hide it


def test_environment_is_none_of_posts_business_else(built: Callable[[str], Path]) -> None:
    text = f'{HEAD}%environment\n    . /no/such/file\n%post\n    test -z "$A"\n'
    assert built(text)


@pytest.mark.parametrize("write", ["cat x > /singularity", "rm -f /singularity; cp x /singularity"])
@pytest.mark.parametrize("section", ["", "%runscript\n    echo other\n"])
def test_what_post_writes_as_runscript_holds(
    write: str, section: str, recipe: Recipe, singbuild: Build, tmp_path: Path
) -> None:
    script = "    printf '#!/bin/sh\\necho mine $1\\n' > x\n    chmod 755 x\n"
    text = f"{HEAD}{section}%post\n{script}    {write}\n"
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert singrun("run", tmp_path / "a.img", "1") == "mine 1\n"
    assert ("%runscript has no effect" in done.stdout + done.stderr) == bool(section)
    assert cat(tmp_path / "a.img", "/.singularity.d/runscript") == "#!/bin/sh\necho mine $1\n"


def test_a_rebuild_from_the_cache_is_the_same(built: Callable[..., Path], tmp_path: Path) -> None:
    text = (
        f"{HEAD}%environment\n    export A=1\n%runscript\n    echo $COLOUR\n%post\n"
        "    echo 'export COLOUR=blue' >> $SINGULARITY_ENVIRONMENT\n"
        "    echo 'k v' >> $SINGULARITY_LABELS\n"
    )
    built(text + "%help\nold\n")
    cached = built(text).read_bytes()  # from the stage of %post
    assert built(text, "--no-cache").read_bytes() == cached


ENV = ["PATH=/opt/tool:/usr/bin:/bin", "TOOL_HOME=/opt/my tool", "LC_ALL=C.UTF-8"]


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """Make an OCI layout of a busybox with ENV."""
    busybox = Path(shutil.which("busybox") or pytest.skip("needs a static busybox")).read_bytes()
    layer = archive(
        *(directory(name) for name in ("bin", "opt", "opt/tool")),
        file("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{n}", "busybox") for n in ("sh", "cat", "ls", "test", "echo", "cp")),
        file("opt/tool/mytool", b'#!/bin/sh\necho "tool of $TOOL_HOME"\n', mode=0o755),
    )
    result = image(layer, config={"Env": ENV, "Entrypoint": ["/bin/echo", "entry"]})
    return write_layout(tmp_path / "layout", {"1": result})


def test_a_containers_variables_hold_in_post(
    container: Path, built: Callable[[str], Path], tmp_path: Path
) -> None:
    text = (
        f"Bootstrap: oci\nFrom: {container}:1\n%post\n"
        "    . /.singularity.d/env/10-docker*.sh\n"
        "    . /.singularity.d/env/10-docker2singularity.sh\n"
        '    mytool > /seen; echo "$LC_ALL" >> /seen\n'
    )
    image = built(text)
    assert cat(image, "/seen") == "tool of /opt/my tool\nC.UTF-8\n"
    assert singrun("run", image, "x") == "entry x\n"
    local = tmp_path / "base.img"
    image.rename(local)
    derived = f"Bootstrap: localimage\nFrom: {local}\n%post\n    mytool > /again\n"
    assert cat(built(derived), "/again") == "tool of /opt/my tool\n"


def test_copy_replaces_environment_and_runscript(
    built: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    image = built(f"{HEAD}%environment\n    export A=1\n%runscript\n    echo first\n")
    (tmp_path / "env").write_text("export A=2\n")
    (tmp_path / "run").write_text("#!/bin/sh\necho second $A\n")
    (tmp_path / "run").chmod(0o755)
    assert singbuild("copy", image, "env", "/environment").returncode == 0
    assert singbuild("copy", image, "run", "/singularity").returncode == 0
    assert singrun("run", image) == "second 2\n"
    assert cat(image, "/.singularity.d/env/90-environment.sh") == "export A=2\n"


@pytest.mark.parametrize("line", ["#!/bin/bash", "#!/bin\t/bash", "#! /opt/no/zsh -e"])
def test_a_shell_that_the_image_lacks_is_sh(
    line: str, singbuild: Build, recipe: Recipe, tmp_path: Path
) -> None:
    """As in Singularity and Apptainer, to which the first line is a comment."""
    done = singbuild(recipe(f"{HEAD}%post\n    {line}\n    echo made > /made\n"), "a.img")
    assert done.returncode == 0, done.stderr
    assert "%post is read by /bin/sh: the image has no " in done.stdout + done.stderr
    assert cat(tmp_path / "a.img", "/made") == "made\n"
    done = singbuild("build", "-F", recipe(f"{HEAD}%post\n    {line}\n    false\n"), "a.img")
    assert done.returncode == 7  # it stops at the first command that fails all the same


def test_an_empty_tree_is_filled_by_sections(built: Callable[[str], Path]) -> None:
    busybox = shutil.which("busybox")
    text = f"Bootstrap: scratch\n%files\n    {busybox} /bin/busybox\n"
    assert singrun("exec", built(text), "/bin/busybox", "echo", "alone") == "alone\n"
    script = "ln -s busybox $SINGULARITY_ROOTFS/bin/sh"
    text += f"%setup\n    mkdir $SINGULARITY_ROOTFS/bin; {script}\n"
    text += "%post\n    echo hi > /hi\n%runscript\n    read -r said < /hi; echo $said\n"
    assert singrun("run", built(text)) == "hi\n"


def test_no_link_leads_to_a_runscript_that_is_not_there(
    built: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    image = built(f"{HEAD}%post\n    test -h /singularity\n")
    script = "test -h /environment; test -h /singularity || echo none"
    assert singrun("exec", image, "sh", "-c", script) == "none\n"
    (tmp_path / "run").write_text("#!/bin/sh\necho first\n")
    (tmp_path / "run").chmod(0o755)
    assert singbuild("copy", image, "run", "/singularity").returncode == 0
    assert singrun("run", image) == "first\n"
    derived = tmp_path / "base.img"
    image.rename(derived)
    assert singrun("run", built(f"Bootstrap: localimage\nFrom: {derived}\n")) == "first\n"


def test_writable_replaces_environment_and_runscript(built: Callable[..., Path]) -> None:
    image = built(f"{HEAD}%environment\n    export A=1\n%runscript\n    echo first\n", "--free=4M")
    script = (
        "cd /root; printf 'export A=2\\n' > e; printf '#!/bin/sh\\necho second $A\\n' > r;"
        "chmod 755 r; rm /environment /singularity; mv e /environment; mv r /singularity"
    )
    assert singrun("exec", "--no-home", "-w", image, "sh", "-c", script) == ""
    assert singrun("run", image) == "second 2\n"
    assert "image, /environment: A=2" in singrun("env", "--why", "A", image)
