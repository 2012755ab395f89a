"""The site's policy: which images run, by path, signer, registry and user; and no way around."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.ext3.writer.seal import seal
from singbuild.signatures import signing
from singrun.images import verdicts
from singrun.images.policy import matches
from singrun.signatures.statement import REBUILT
from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD
from tests.bench.host import shared_directory
from tests.bench.singrun_images import Person

pytestmark = pytest.mark.root
NOW = "20260101T000000Z"


class Site:
    """A host with a policy: images, keys, and who starts them."""

    def __init__(self, place: Path, user: str) -> None:
        self.place = place
        self.launcher = images.installed(place)
        self.policy = place / "policy"
        source = place / "singrun/images/image.py"
        source.write_text(source.read_text().replace("/etc/singrun.policy", str(self.policy)))
        self.root, self.user = Person("root", self.launcher), Person(user, self.launcher)
        images.fill(place / "tree")
        self.image = seal(place / "tree", place / "i.img", epoch=2**30).path
        self.image.chmod(0o755)
        for name in ("ada", "bob"):
            words: list[str | Path] = [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                place / name,
            ]
            subprocess.run(words, check=True)
        (place / "signers").write_text(f"ada@lab.example {(place / 'ada.pub').read_text()}")
        (place / "signers").chmod(0o644)
        self.revoked = place / "revoked"
        self.signed = self.copy("signed.img")
        signing.sign(self.signed, lambda it: signing.by_key(it, place / "ada", agent=False), NOW)

    def copy(self, name: str, of: Path | None = None) -> Path:
        target = self.place / name
        subprocess.run(["cp", "-p", "--sparse=always", of or self.image, target], check=True)
        return target

    def rule(self, *lines: str) -> None:
        lists = [f"signers {self.place}/signers", f"revoked {self.revoked}"]
        self.policy.write_text("\n".join([*lists, *lines]) + "\n")
        self.policy.chmod(0o644)

    def starts(self, image: Path | str, *words: str | Path, person: Person | None = None) -> bool:
        """Whether true runs in an image; a refusal has its reason and status 255."""
        done = (person or self.user).singrun("exec", *words, image, "true")
        if done.returncode:
            assert done.returncode == 255, done
            assert b"may not be" in done.stderr, done
        return done.returncode == 0


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    with shared_directory() as place, images.ordinary_user() as user:
        yield Site(place, user)


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    yield module_site
    module_site.policy.unlink(missing_ok=True)
    module_site.revoked.unlink(missing_ok=True)


def test_only_signed_images_run(site: Site) -> None:
    assert site.starts(site.image)
    site.rule("run signer=*@lab.example")
    for person in (site.user, site.root):
        assert site.starts(site.signed, person=person)
        assert not site.starts(site.image, person=person)
        assert not site.starts(site.place / "tree", person=person)


def test_a_bad_signature_lets_nothing_run(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    changed = site.copy("changed.img", site.signed)
    with changed.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert not site.starts(changed)
    bobs = site.copy("bobs.img")
    signing.sign(bobs, lambda it: signing.by_key(it, site.place / "bob", agent=False), NOW)
    assert not site.starts(bobs)
    swapped = site.copy("swapped.img")
    out = site.place / "out.sig"
    signing.sign(
        bobs, lambda it: signing.by_key(it, site.place / "ada", agent=False), NOW, beside=out
    )
    shutil.copy(out, site.place / "changed.img.sig")  # another file's
    shutil.copy(out, site.place / "swapped.img.sig")
    assert not site.starts(changed)
    assert site.starts(swapped)  # the same bytes as bob's, by whatever name


def test_who_rebuilt_an_image_has_not_signed_it(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    image, key = site.copy("rebuilt.img"), site.place / "ada"
    signing.sign(image, lambda it: signing.by_key(it, key, agent=False), NOW, claim=REBUILT)
    assert not site.starts(image)
    signing.sign(image, lambda it: signing.by_key(it, key, agent=False), NOW)
    assert site.starts(image)


@pytest.mark.timeout(60)
def test_nothing_beside_an_image_keeps_a_start_waiting(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    image = site.copy("fifo.img")
    os.mkfifo(f"{image}.sig")
    assert not site.starts(image)
    os.unlink(f"{image}.sig")


def test_what_changes_is_noticed_at_once(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    image = site.copy("later.img", site.signed)
    assert site.starts(image)
    site.revoked.write_text((site.place / "ada.pub").read_text())
    site.revoked.chmod(0o644)
    assert not site.starts(image)
    site.revoked.unlink()
    assert site.starts(image)
    with image.open("r+b") as file:
        file.seek(4096 * 100)
        file.write(b"x" * 10)
    assert not site.starts(image)


def test_rules_are_taken_in_order(site: Site) -> None:
    site.rule("refuse path=*/signed.img", "run user=root", f"warn user={site.user.name}")
    assert not site.starts(site.signed)
    assert not site.starts(site.signed, person=site.root)
    assert site.starts(site.image, person=site.root)
    done = site.user.singrun("exec", site.image, "true")
    assert (done.returncode, b"line 5 warns of it" in done.stderr) == (0, True)
    site.rule("run path=/nowhere/*")
    assert not site.starts(site.image)
    site.rule(f"run path={site.place}/*.img user={site.user.name}")
    assert site.starts(site.image)
    assert not site.starts(site.image, person=site.root)


@pytest.mark.parametrize("line", ["let path=*", "run path", "run colour=red", "run path="])
def test_a_rule_that_cannot_be_understood_lets_nothing_run(site: Site, line: str) -> None:
    site.rule("run path=*", line)
    done = site.user.singrun("exec", site.image, "true")
    assert (done.returncode, b"line 4: cannot understand" in done.stderr) == (255, True)
    site.policy.write_bytes(b"#" * (1 << 21))
    assert site.user.singrun("exec", site.image, "true").returncode == 255


def test_a_policy_that_cannot_be_read_lets_nothing_run(site: Site) -> None:
    site.rule("run path=*")
    site.policy.chmod(0)
    done = site.user.singrun("exec", site.image, "true")
    assert (done.returncode, b"Cannot read" in done.stderr) == (255, True)


def test_no_other_spelling_leads_around(site: Site) -> None:
    site.rule("refuse path=*/i.img", "run path=*")
    link, hard = site.place / "link", site.place / "hard"
    link.symlink_to(site.image)
    for word in (site.image, link, f"{site.place}/./tree/../i.img", f"/proc/self/root{site.image}"):
        assert not site.starts(word)
    site.rule("run signer=ada@lab.example")
    os.link(site.image, hard)
    assert not site.starts(hard)
    for each in (link, hard):
        each.unlink()


def test_overlays_data_mounts_and_unpacking_are_asked_too(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    for person in (site.user, site.root):
        assert not site.starts(site.signed, "--overlay", f"{site.image}:ro", person=person)
        bind = f"{site.image}:/mnt:image-src=/"
        assert not site.starts(site.signed, "--bind", bind, person=person)
        place = Path(person.home) / "place"
        for words in (("mount", site.image, place, "true"), ("warm", site.image)):
            done = person.singrun(*words)
            assert (done.returncode, b"may not be run" in done.stderr) == (255, True), done
    assert not site.starts(site.signed, "--overlay", f"{site.place}/tree:ro")
    assert not site.starts(site.image, "--join")
    assert not site.starts(site.image, "--mount-with", "unpack")


def test_who_unpacks_is_no_root(site: Site) -> None:
    """But in a user namespace; nothing is asked or remembered in there."""
    memory = Path("/var/tmp/singrun-signers-0")
    shutil.rmtree(memory, ignore_errors=True)
    image = site.copy("unpacked.img", site.signed)
    site.rule(f"warn user={site.user.name} signer=ada@lab.example")
    done = site.user.singrun("warm", image)
    assert (done.returncode, done.stderr.count(b"warns of it")) == (0, 1), done
    assert not memory.exists()
    site.rule("refuse user=root", "run path=*")
    image = site.copy("unpacked.img", site.signed)
    assert site.starts(image, "--mount-with", "unpack")
    site.rule("run path=/nowhere/*")
    done = site.user.call(site.launcher, "doctor")
    assert b"may not be run" not in done.stdout, done


def test_an_instance_is_entered_only_while_its_image_may_run(site: Site) -> None:
    image = site.copy("instance.img")
    start = site.user.singrun("start", image, "web", "sleep", "60")
    assert start.returncode == 0, start
    try:
        assert site.starts("instance://web")
        site.rule("run signer=ada@lab.example")
        assert not site.starts("instance://web")
        assert not site.starts(image)
        site.rule(f"run path={image}")
        assert site.starts("instance://web")
        image.unlink()  # another that may run lies in its place
        site.copy("instance.img", site.signed)
        assert not site.starts("instance://web")
    finally:
        site.policy.unlink()
        site.user.singrun("stop", "web")


def test_what_is_remembered_is_the_users_own(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    memory = Path(f"/var/tmp/singrun-signers-{site.user.uid}")
    shutil.rmtree(memory, ignore_errors=True)
    assert site.starts(site.signed)
    assert memory.stat().st_mode & 0o777 == 0o700
    # A stranger's directory, or one that is open to all, is not believed.
    (entry,) = memory.iterdir()
    lines = entry.read_text().split("\n")
    status = site.image.stat()
    name = memory / f"{status.st_dev:x}-{status.st_ino:x}"
    forged = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    forged = f"{forged} {status.st_ctime_ns}"
    name.write_text("\n".join([forged, *lines[1:]]))
    memory.chmod(0o777)
    assert not site.starts(site.image)
    memory.chmod(0o700)
    subprocess.run(["chown", "root", memory], check=True)
    assert not site.starts(site.image)
    shutil.rmtree(memory)


def test_what_is_remembered_is_of_the_latest_images(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/var/tmp/singrun-signers-0")
    shutil.rmtree(memory, ignore_errors=True)
    monkeypatch.setattr(verdicts, "_MOST", 3)
    for number, name in enumerate(("1-1", ".1-2.99", "1-3", "1-4")):
        verdicts._remember(name, ["a", "b", "c", "0"])
        os.utime(memory / name, (number, number))
    assert {path.name for path in memory.iterdir()} == {".1-2.99", "1-3", "1-4"}
    verdicts._remember("1-5", ["a", "b", "c", "0"])
    assert {path.name for path in memory.iterdir()} == {"1-3", "1-4", "1-5"}
    assert verdicts._remembered("1-5")[:1] == ["a"]
    shutil.rmtree(memory)


def test_contents_are_read_first_where_that_is_asked(site: Site) -> None:
    image = site.copy("contents.img", site.signed)
    assert site.user.singrun("exec", "--contents", image, "true").returncode == 0
    with image.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")
    done = site.user.singrun("exec", "--contents", image, "true")
    assert (done.returncode, b"is damaged" in done.stderr) == (255, True)


def test_contents_of_an_unsigned_image_are_verified_by_the_builder(site: Site) -> None:
    tree = shutil.copytree(site.place / "tree", site.place / "whole", symlinks=True)
    (tree / ".singularity.d/manifest").touch()  # the seal fills it, for verify
    image = seal(tree, site.place / "unsigned.img", epoch=2**30).path
    image.chmod(0o755)
    builder = site.place / "bin/singbuild"
    builder.write_text(f'#!/bin/sh\nexec {shlex.join(SINGBUILD)} "$@"\n')
    builder.chmod(0o755)
    variables = site.user.environment() | {"PYTHONPATH": str(images.ROOT)}
    try:
        done = site.user.singrun("exec", "--contents", image, "true", env=variables)
        assert done.returncode == 0, done
        with image.open("r+b") as file:
            place = image.read_bytes().index(b"root:x:0")
            file.seek(place)
            file.write(b"toor")
        done = site.user.singrun("exec", "--contents", image, "true", env=variables)
        assert (done.returncode, b"singbuild verify ended with status 8" in done.stderr) == (
            255,
            True,
        ), done
        # As it is, it runs: nobody asked for its contents.
        assert site.user.singrun("exec", image, "true").returncode == 0
    finally:
        builder.unlink()


def test_root_for_a_user_meets_the_rules_for_both(site: Site) -> None:
    sudo = {"SUDO_UID": str(site.user.uid), "SUDO_GID": str(site.user.gid)}
    variables = {"HOME": "/root", "USER": "root", "PATH": "/usr/bin:/bin"} | sudo

    def starts(image: Path) -> bool:
        words = ("exec", "--as-caller", image, "true")
        done = site.root.call(site.launcher, *words, env=variables, cwd="/")
        assert done.returncode == 0 or b"may not be" in done.stderr, done
        return done.returncode == 0

    assert starts(site.image)
    for name in (site.user.name, "root"):
        site.rule(f"refuse user={name}", "run path=*")
        assert not starts(site.image)
    site.rule("run signer=ada@lab.example")
    assert starts(site.signed)
    assert not starts(site.image)


def test_a_second_start_reads_nothing_again(site: Site) -> None:
    site.rule("run signer=ada@lab.example")
    assert site.starts(site.signed, person=site.root)
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    command: list[str | Path] = [
        "strace",
        "-f",
        "-e",
        "trace=execve,pread64",
        site.launcher,
        "exec",
        site.signed,
    ]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=True)
    assert "ssh-keygen" not in done.stderr
    assert ", 1048576, " not in done.stderr


def test_verdicts_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    when = int(time.time())
    assert verdicts._is_fresh(str(when))
    assert not verdicts._is_fresh(str(when - 3601))
    assert not verdicts._is_fresh(str(when + 60))


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("abc", "abc", True),
        ("abc", "ab", False),
        ("abc", "*", True),
        ("", "*", True),
        ("a/b/c", "a*c", True),
        ("ac", "a*b*c", False),
        ("abbc", "a*b*b*c", True),
        ("abc", "a*b*b*c", False),
        ("aba", "ab*ba", False),
        ("xx", "x**x", True),
    ],
)
def test_patterns(text: str, pattern: str, fits: bool) -> None:
    assert matches(text, pattern) is fits
