"""Configuration files: which setting counts, who is trusted, and what is said of what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from singbuild.cli.build import build
from singbuild.cli.main import main
from singbuild.configuration import reading, settings
from singbuild.errors import ConfigurationError
from tests.bench.builds import SINGBUILD
from tests.bench.singrun_images import ROOT

RECIPE = "Bootstrap: busybox\n%setup\n    true\n%post\n    true\n"
Say = Callable[..., "subprocess.CompletedProcess[str]"]


class Desk:
    """A directory with a site's file and a user's, which are read by the commands called there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site.conf"
        self.user = directory / "config/singbuild/singbuild.conf"
        self.user.parent.mkdir(parents=True)
        self.site.write_text("")
        environment = {
            n: v for n, v in os.environ.items() if not n.startswith(("SINGBUILD", "TMPDIR"))
        }
        own = {"SINGBUILD_CONFIG": self.site, "XDG_CONFIG_HOME": self.user.parents[1]}
        self.environment = environment | {name: str(path) for name, path in own.items()}
        (directory / "a.def").write_text(RECIPE)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | variables
        return subprocess.run(
            [*SINGBUILD, *words],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
        )

    def shown(self, **variables: str) -> dict[str, tuple[str, str]]:
        """Each setting's value and source."""
        done = self.run("config", "show", "--json", **variables)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["version"], answer["command"]) == (1, "config show")
        return {each["name"]: (each["value"], each["source"]) for each in answer["settings"]}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_variable_before_user_before_site_before_built_in(desk: Desk) -> None:
    place = "cache directory"
    assert desk.shown()[place] == ("~/.cache/singbuild", "built in")
    desk.site.write_text("# ours\n\n  Cache   DIRECTORY=/site/%U\ncache size = 5G\n")
    assert desk.shown()[place] == (f"/site/{os.geteuid()}", f"{desk.site}, line 3")
    desk.user.write_text("cache directory = $WHERE/mine\n")
    assert desk.shown(WHERE="/w")[place] == ("/w/mine", f"{desk.user}, line 1")
    assert desk.shown()[place][0] == f"/site/{os.geteuid()}"  # outside of a job
    values = desk.shown(WHERE="/w", SINGBUILD_CACHEDIR="/v", SINGBUILD_CACHE_SIZE="7G")
    assert values[place] == ("/v", "SINGBUILD_CACHEDIR")
    assert values["cache size"] == ("7G", "SINGBUILD_CACHE_SIZE")
    assert desk.shown(APPTAINER_CACHEDIR="/a")[place] == ("/a/singbuild", "APPTAINER_CACHEDIR")
    assert desk.shown()["scratch directory"] == ("/var/tmp", "built in")


def test_people_see_where_each_value_is_from(desk: Desk) -> None:
    desk.site.write_text("mirror debian = http://mirror.invalid/debian\nbuild free = 64M\n")
    output = desk.run("config", "show").stdout
    line = f"mirror debian .* http://mirror.invalid/debian +{re.escape(str(desk.site))}, line 1"
    assert re.search(line, output)
    assert f"Files: {desk.site}\n" in output
    assert desk.run("config", "show", "build free").stdout == "64M\n"
    wrong = desk.run("config", "show", "build fre")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Did you mean 'build free'?" in wrong.stderr


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("cach size = 5G", "there is no setting 'cach size'\nDid you mean 'cache size'?"),
        ("scratch = /s", "there is no setting 'scratch'\nDid you mean 'scratch directory'?"),
        ("qwerty = 1", "there is no setting 'qwerty'\nman singbuild.conf"),
        ("mirror / = http://m.invalid", "there is no setting 'mirror /'\nSay: mirror NAME = URL"),
        ("cache size = banana", "cache size: 'banana' is not a size"),
        ("cache size", "cache size has no value"),
        ("cache directory = here", "cache directory: 'here' is not an absolute path"),
        ("build locked = perhaps", "build locked: 'perhaps' is neither yes nor no"),
        ("build privilege = god", "build privilege: 'god' is none of root, subuid"),
        ("mirror debian = deb", "mirror debian: 'deb' is not a URL"),
        ("allow backend = a;b", "allow backend: 'a;b' is not a list of words"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(
    line: str, answer: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.user.write_text(f"# mine\n{line}\n")
    done = desk.run("plan", "a.def")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{desk.user}:2: {answer}" in done.stderr
    event = json.loads(desk.run("a.def", "a.img", "--json").stdout.splitlines()[-1])
    assert (event["event"], event["status"]) == ("error", 2)
    assert (event["path"], event["line"]) == (str(desk.user), 2)
    for name in ("SINGBUILD_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, desk.environment[name])
    with pytest.raises(ConfigurationError):
        reading.read()
    for words in (("help", "build"), ("build", "--help"), ("--help",)):
        monkeypatch.setattr(sys, "argv", ["singbuild", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0


@pytest.mark.parametrize(
    ("variable", "value"), [("SINGBUILD_CACHE_SIZE", "banana"), ("SINGBUILD_OFFLINE", "perhaps")]
)
def test_a_variable_that_cannot_be_meant_is_told_at_once(
    variable: str, value: str, desk: Desk
) -> None:
    done = desk.run("a.def", "a.img", **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{variable}: '{value}' is" in done.stderr
    assert not (desk.directory / "a.img").exists()


def test_a_file_that_is_named_must_be_there(desk: Desk) -> None:
    desk.site.unlink()
    done = desk.run("plan", "a.def")
    assert done.returncode == 2
    assert "SINGBUILD_CONFIG names" in done.stderr


def test_what_everybody_may_write_is_not_obeyed(desk: Desk) -> None:
    desk.user.write_text("build free = 64M\n")
    desk.user.chmod(0o666)
    done = desk.run("plan", "a.def")
    assert done.returncode == 5
    assert f"cannot trust {desk.user}" in done.stderr
    assert "chmod o-w" in done.stderr


@pytest.mark.root
def test_a_strangers_file_is_not_obeyed(desk: Desk) -> None:
    desk.site.write_text("build free = 64M\n")
    os.chown(desk.site, 12345, 12345)
    done = desk.run("plan", "a.def")
    assert (done.returncode, done.stdout) == (5, "")
    assert "It belongs to another user." in done.stderr


@pytest.mark.root
def test_root_reads_no_file_of_the_user_whose_home_it_has(desk: Desk) -> None:
    desk.user.write_text("build free = 64M\n")
    for path in (desk.user.parents[1], desk.user.parent, desk.user):
        os.chown(path, 12345, 12345)
    assert desk.shown()["build free"] == ("0", "built in")


def test_a_file_that_is_none_does_not_hold_anybody_up(desk: Desk) -> None:
    desk.site.unlink()
    os.mkfifo(desk.site)
    assert desk.run("plan", "a.def").returncode in (0, 3)
    desk.site.unlink()
    desk.site.mkdir()
    assert "Is a directory" in desk.run("plan", "a.def").stderr
    desk.site.rmdir()
    desk.site.write_bytes(b"#" * ((1 << 20) + 1))
    assert "It has more than 1 MiB." in desk.run("plan", "a.def").stderr


@pytest.mark.parametrize(
    ("setting", "recipe", "answer"),
    [
        ("allow host sections = no", RECIPE, "a.def:2: %setup is not allowed here"),
        ("allow backend = docker oci", RECIPE, "a.def:1:12: Bootstrap: busybox is not allowed"),
        (
            "allow unverified = no",
            "Bootstrap: docker\nFrom: a.invalid/b\nInsecure: yes\n",
            "a.def:3:11: Insecure: yes is not allowed here",
        ),
        (
            "allow unverified = no",
            "Bootstrap: docker\nFrom: a.invalid/b\nInsecure: True\n",
            "a.def:3:11: Insecure: True is not allowed here",
        ),
        (
            "allow unverified = no",
            "Bootstrap: docker\nFrom: b\nRegistry: http://a.invalid\n",
            "a.def:3:11: Registry: http://a.invalid is not allowed here",
        ),
        (
            "allow unverified = no",
            "Bootstrap: dnf\nOSVersion: 9\nMirrorURL: http://m.invalid\nGPGCheck: 0\n",
            "a.def:4:11: GPGCheck: 0 is not allowed here",
        ),
    ],
)
def test_policy_is_told_by_the_recipes_line_and_the_files(
    setting: str, recipe: str, answer: str, desk: Desk
) -> None:
    desk.site.write_text(f"\n{setting}\n")
    desk.user.write_text(setting.replace("= no", "= yes").replace("docker oci", "busybox docker"))
    (desk.directory / "a.def").write_text(recipe)
    for words in (("a.def", "a.img"), ("plan", "a.def")):
        done = desk.run(*words)
        assert done.returncode == 3
        assert answer in done.stderr
        assert f"{desk.site}, line 2" in done.stderr
    assert not (desk.directory / "a.img").exists()


@pytest.mark.parametrize("url", ["http://a.invalid/f", "$U"])
def test_what_a_dockerfile_fetches_by_plain_http_needs_a_digest_where_that_is_said(
    url: str, desk: Desk
) -> None:
    desk.site.write_text("allow unverified = no\n")
    text = f"FROM scratch\nARG U=http://a.invalid/f\nADD {url} /f\n"
    (desk.directory / "Dockerfile").write_text(text)
    words, cache = ("lock", "Dockerfile"), str(desk.directory / "cache")
    done = desk.run(*words, SINGBUILD_CACHEDIR=cache)
    assert done.returncode == 3
    assert "Dockerfile:3: ADD of http://a.invalid/f by plain http is not allowed" in done.stderr
    assert f"{desk.site}, line 1" in done.stderr
    text = text.replace("ADD", f"ADD --checksum=sha256:{'0' * 64}")
    (desk.directory / "Dockerfile").write_text(text)
    done = desk.run(*words, SINGBUILD_CACHEDIR=cache, SINGBUILD_OFFLINE="1")
    assert done.returncode == 6, done.stderr


def test_builds_keep_to_a_lock_where_that_is_said(desk: Desk) -> None:
    desk.site.write_text("allow unlocked = no\n")
    done = desk.run("a.def", "a.img")
    assert done.returncode == 9
    assert "Add --locked" in done.stderr


def test_defaults_of_options_give_way_to_the_command_line(desk: Desk) -> None:
    desk.site.write_text("build locked = yes\nbuild notest = no\n")
    done = desk.run("a.def", "a.img")
    assert done.returncode == 9  # there is no lock
    (desk.directory / "a.def").write_text("Bootstrap: nothing-of-the-kind\n")
    done = desk.run("--locked=no", "a.def", "a.img")
    assert done.returncode == 4, done.stderr
    assert desk.run("--locked=maybe", "a.def", "a.img").returncode == 2


def test_a_mirrors_name_in_a_recipe_stands_for_its_url(desk: Desk) -> None:
    desk.site.write_text("mirror rocky = http://m.invalid/rocky/%{OSVERSION}\n")
    text = "Bootstrap: dnf\nOSVersion: 9\nMirrorURL: Rocky\nGPGCheck: no\n"
    (desk.directory / "a.def").write_text(text)
    done = desk.run("plan", "a.def")
    assert "MirrorURL: http://m.invalid/rocky/%{OSVERSION}" in done.stdout, done.stderr


def test_the_example_for_sites_is_one(desk: Desk) -> None:
    desk.site.write_text((ROOT / "docs/site/singbuild.conf").read_text())
    output = desk.shown()
    assert output["cache directory"][0] == f"/var/tmp/singbuild-{os.geteuid()}"
    assert output["allow host sections"] == ("no", f"{desk.site}, line 7")


def test_the_example_in_the_page_is_one(desk: Desk) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    desk.site.write_text(page.partition("```\n")[2].partition("```")[0])
    assert desk.shown(SLURM_TMPDIR="/job")["scratch directory"][0] == "/job"


def test_the_page_has_each_setting_and_its_variables() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    table = page.partition("## Settings")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([a-z -]+)`", row.split("|")[1])}
    assert names | {"mirror NAME"} == {*settings.SETTINGS} | {"mirror NAME"}
    assert "`mirror NAME`" in table
    for name, setting in settings.SETTINGS.items():
        row = next(row for row in rows if f"`{name}`" in row.split("|")[1])
        for variable in setting.variables:
            assert variable in row or "APPTAINER" in variable or "SINGULARITY" in variable


def test_settings_of_builds_are_options_with_the_same_values() -> None:
    options = {word: each for each in build.params for word in each.opts}
    for name, setting in settings.SETTINGS.items():
        if not setting.option:
            continue
        assert name == f"build {setting.option.removeprefix('--')}"
        parameter = options[setting.option]
        assert isinstance(parameter, click.Option)
        assert parameter.is_flag == (setting.default == "no")
        for choice in getattr(parameter.type, "choices", ()):
            assert setting.complaint(choice) == ""


def test_singrun_shows_its_own(tmp_path: Path) -> None:
    site = tmp_path / "singrun.conf"
    site.write_text("mount home = no\ncache directory = /c/%U\ncache size = 5G\n")
    environment = {"PATH": os.environ["PATH"], "SINGRUN_CONFIG": str(site), "SINGRUN_BIND": "/data"}
    words = [str(ROOT / "bin/singrun"), "config", "show", "--json"]
    output = subprocess.run(
        words, env=environment | {"SINGRUN_CACHESIZE": "7G"}, capture_output=True, check=True
    )
    answer = json.loads(output.stdout)
    assert (answer["version"], answer["command"], answer["file"]) == (1, "config show", str(site))
    rows = {each["name"]: (each["value"], each["source"]) for each in answer["settings"]}
    assert rows["mount home"] == ("no", f"{site}, line 1")
    assert rows["mount proc"] == ("yes", "")
    assert rows["cache directory"] == (f"/c/{os.geteuid()}", f"{site}, line 2")
    assert rows["cache size"] == ("7G", "SINGRUN_CACHESIZE")
    assert rows["--bind"] == ("/data", "SINGRUN_BIND")
    plain = subprocess.check_output(words[:-1], env=environment, text=True)
    assert re.search(rf"mount home +no +{re.escape(str(site))}, line 1", plain)
    site.chmod(0o666)
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 255
    assert f"Cannot trust {site}" in done.stderr


def test_singrun_looks_for_pulled_images_where_singbuild_keeps_them(tmp_path: Path) -> None:
    site = tmp_path / "singbuild.conf"
    site.write_text("cache directory = /c/$JOB/%U\n")
    code = "from singrun.images import pull_cache; print(pull_cache.cache())"
    environment = {"PYTHONPATH": str(ROOT), "SINGBUILD_CONFIG": str(site), "HOME": str(tmp_path)}
    for job, answer in (("7", f"/c/7/{os.geteuid()}"), ("", f"{tmp_path}/.cache/singbuild")):
        output = subprocess.check_output(
            [sys.executable, "-c", code], env=environment | {"JOB": job}, text=True
        )
        assert output.strip() == answer
