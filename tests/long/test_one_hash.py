"""Twenty recipes and random trees: whoever makes an image, wherever, it has the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from tests.bench.singrun_images import ROOT, Person
from tests.host.images.test_formats_built import people, place

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
__all__ = ["people", "place"]
FORMATS = ("ext3", "squashfs", "sif")
TREES = int(os.environ.get("SINGBUILD_TEST_INPUTS", "20"))
ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "elsewhere")
ABROAD = {"TZ": "Asia/Tokyo", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "USER": "somebody"}
B = "Bootstrap: busybox\n"
RECIPES = {
    "hello": (ROOT / "recipes/busybox.def").read_text(),
    "plain": B,
    "files": f"{B}%files\n    {ROOT}/README.md /opt/read.me\n    {ROOT}/docs /usr/share/docs\n",
    "links": f"{B}%post\n    mkdir /d; echo x > /d/a; ln /d/a /d/b; ln -s /none /d/c\n",
    "times": f"{B}%post\n    date > /etc/built; touch /etc/now; rm /etc/built\n",
    "owners": f"{B}%post\n    touch /a /b; chown 5:6 /a; chown 1000:1000 /b; chmod 4711 /a\n",
    "fifo": f"{B}%post\n    mkfifo /fifo; mkdir -m 1777 /open\n",
    "sparse": f"{B}%post\n    truncate -s 30M /sparse; echo end >> /sparse\n",
    "many": f"{B}%post\n    mkdir /m; for i in $(seq 700); do echo $i > /m/$i; done\n",
    "deep": f"{B}%post\n    d=/x; for i in $(seq 30); do d=$d/y$i; done; mkdir -p $d; touch $d/z\n",
    "environment": f"{B}%environment\n    export A=1 B='two words'\n%runscript\n    echo $A $B\n",
    "labels": f"{B}%labels\n    Author Ada\n    Version 1.2\n%help\n    Some help.\n",
    "apps": f"{B}%apprun one\n    echo one\n%appinstall one\n    touch $SCIF_APPROOT/f\n",
    "start": f"{B}%startscript\n    sleep 5\n%test\n    test -x /bin/sh\n",
    "setup": f"{B}%setup\n    echo host > $SINGULARITY_ROOTFS/from-host\n",
    "arguments": f"{B}%arguments\n    WHO=ada\n%post\n    echo {{{{ WHO }}}} > /who\n",
    "steps": f"{B}%post\n    touch /one\n%post\n    touch /two\n%post\n    rm /one\n",
    "stages": f"{B}Stage: first\n%post\n    echo made > /made\n\n"
    f"{B}Stage: last\n%files from first\n    /made /taken\n",
    "names": f"{B}%post\n    touch '/a b' '/ü' '/-n' '/back\\slash' '/new\nline'\n",
    "Dockerfile": "FROM scratch\nCOPY README.md /a/\nCOPY recipes /r\nENV A=b\nLABEL c=d\n",
}


def result(person: Person, *words: str, elsewhere: bool, umask: int) -> None:
    variables = person.environment() | (ABROAD if elsewhere else {"TZ": "UTC"})
    argv = [*(ELSEWHERE if elsewhere else ()), *person.words(*words)]
    done = subprocess.run(argv, env=variables, capture_output=True, cwd=ROOT, umask=umask)
    assert done.returncode == 0, done


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_one_hash_in_each_format(place: Path, people: list[Person], name: str) -> None:
    recipe = place / (name if name == "Dockerfile" else f"{name}.def")
    recipe.write_text(RECIPES[name])
    if name == "Dockerfile":
        (place / "README.md").write_bytes((ROOT / "README.md").read_bytes())
        subprocess.run(["cp", "-r", ROOT / "recipes", place], check=True)
    for form in FORMATS:
        digests = set()
        for person, elsewhere in zip(people, (False, True), strict=True):
            target = place / person.name / f"{name}.{form}"
            words = ("singbuild", "-q", "--force", "--format", form, str(recipe), str(target))
            result(person, *words, elsewhere=elsewhere, umask=0o077 if elsewhere else 0o022)
            digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
        assert len(digests) == 1, form


@pytest.mark.timeout(0)
def test_random_trees_have_one_hash_in_each_format(place: Path, people: list[Person]) -> None:
    for seed in range(TREES):
        tree = place / f"tree-{seed}"
        grow(tree, random.Random(seed))
        source = place / f"tree-{seed}.img"
        first = ("singbuild", "convert", "-q", str(tree), str(source))
        result(people[0], *first, elsewhere=False, umask=0o022)
        for form in FORMATS:
            digests = set()
            for person, elsewhere in zip(people, (False, True), strict=True):
                target = place / person.name / f"tree-{seed}.{form}"
                words = ("singbuild", "convert", "-q", "--format", form, str(source), str(target))
                result(person, *words, elsewhere=elsewhere, umask=0o077 if elsewhere else 0o022)
                digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
                target.unlink()
            assert len(digests) == 1, (seed, form)


def grow(tree: Path, chance: random.Random) -> None:
    """Make a tree of all that a format holds."""
    tree.mkdir()
    directories = [tree]
    for number in range(chance.randrange(5, 120)):
        path = chance.choice(directories) / f"{number:x}{'é' * chance.randrange(3)}"
        kind = chance.randrange(10)
        if kind == 0:
            path.mkdir()
            directories.append(path)
        elif kind == 1:
            path.symlink_to("x" * chance.randrange(1, 200))
        elif kind == 2:
            os.mkfifo(path)
        elif kind == 3:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            path.write_bytes(chance.randbytes(chance.choice([0, 1, 59, 4096, 70_000, 300_000])))
            if kind == 4:
                os.setxattr(path, "user.note", chance.randbytes(20))
            if kind == 5:
                os.link(path, path.with_name(path.name + "again"))
        os.chown(path, chance.randrange(70000), chance.randrange(9), follow_symlinks=False)
        date = chance.randrange(1 << 31)
        os.utime(path, (date, date), follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(chance.randrange(0o10000) | (0o700 if path.is_dir() else 0))
