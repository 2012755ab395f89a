"""The command line: what belongs to singrun, what to the command, and what is nearly right."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from singrun import cli, config, options, syscalls
from singrun.environment import variables
from singrun.errors import RunError
from singrun.images import policy
from singrun.mounts import binds
from singrun.request import Request
from singrun.verbs import manual


def parsed(*words: str) -> Request:
    request = cli.parse(list(words))
    assert isinstance(request, Request)
    return request


def test_options_end_at_the_image() -> None:
    request = parsed("-d", "exec", "-ce", "--pwd=/x", "i.img", "ls", "-l", "--pwd", "--", "-p")
    assert (request.program.verb, request.image.path) == ("exec", "i.img")
    assert request.program.arguments == ["ls", "-l", "--pwd", "--", "-p"]
    assert (request.debug, request.mounts.contain, request.variables.clean) == (True, True, True)
    assert (request.isolation.pid, request.program.directory) == (False, "/x")


def test_a_tmpfs_of_compat_yields_to_a_layer_that_is_asked_for() -> None:
    assert parsed("exec", "--compat", "i", "x").image.writable_tmpfs
    assert not parsed("exec", "--compat", "--overlay", "/o", "i", "x").image.writable_tmpfs
    assert parsed("exec", "--writable-tmpfs", "-w", "i", "x").image.writable_tmpfs  # is refused


def test_containall_without_a_pid_namespace() -> None:
    request = parsed("exec", "-C", "--no-pid", "i", "x")
    assert (request.isolation.pid, request.isolation.ipc) == (False, True)


def test_a_flag_takes_yes_and_no() -> None:
    assert parsed("exec", "--contain=true", "i", "x").mounts.contain
    assert not parsed("exec", "-c", "--contain=false", "i", "x").mounts.contain


def test_a_first_word_with_a_slash_is_run() -> None:
    request = parsed("./i.img", "--help", "exec")
    assert (request.program.verb, request.image.path, request.program.arguments) == (
        "run",
        "./i.img",
        ["--help", "exec"],
    )


def test_two_dashes_end_the_options() -> None:
    assert parsed("exec", "--", "-odd-.img", "ls").image.path == "-odd-.img"


def test_binds_of_every_spelling(tmp_path: Path) -> None:
    odd = tmp_path / "a,b:c\\d"
    odd.mkdir()
    word = str(odd).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
    parsed_binds = binds.parse(f"/etc,/usr:/data,{word}:/odd\\::ro")
    assert [(each.source, each.target, each.read_only) for each in parsed_binds] == [
        ("/etc", "/etc", False),
        ("/usr", "/data", False),
        (str(odd), "/odd:", True),
    ]
    request = parsed("run", "-B/etc", "--bind", "/usr:/u", "-cB", "/tmp", "image")
    assert [each.target for each in request.mounts.binds] == ["/etc", "/u", "/tmp"]


def test_home_with_and_without_a_source() -> None:
    assert binds.parse_home("/h") == ("", "/h")
    assert binds.parse_home("/etc:/h/./x") == ("/etc", "/h/x")


@pytest.mark.parametrize("word", ["/etc:rel", "/etc:/", "/etc:/..", "/etc:/a:b", "/a/b/c/d", ":/x"])
def test_binds_that_mean_nothing(word: str) -> None:
    with pytest.raises(RunError) as caught:
        binds.parse(word)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("exce", "i"), "Did you mean exec?"),
        (("shel", "i"), "Did you mean shell?"),
        (("exec", "--clean-env", "i"), "Did you mean --cleanenv?"),
        (("exec", "--nohome", "i"), "Did you mean --no-home?"),
        (("--hlep",), "Did you mean --help?"),
        (("exec", "--boot", "i"), "An instance starts the image's %startscript and no init."),
        (
            ("xyzzy",),
            f"The verbs are {', '.join(manual.VERBS)}.",
        ),
        (("verify", "i"), "Did you mean singbuild verify?"),
        (("buidl", "i"), "Did you mean singbuild build?"),
        (("ps",), "Did you mean singrun instances?"),
        (("version",), "Did you mean singrun --version?"),
        (("help", "exce"), "Did you mean exec?"),
        (("exec", "i", "-B", "/srv", "ls"), "before the image: singrun exec -B /srv i ls"),
        (("exec", "i", "--bind=/srv", "ls"), "before the image: singrun exec --bind=/srv i ls"),
        (("exec", "i", "--nv", "ls"), "before the image: singrun exec --nv i ls"),
        (("exec", "i", "--help"), "Say: singrun help exec, or singrun help i"),
        (
            ("exec", "-B", "i.img", "ls"),
            "ls was taken as the image, and i.img as the value of --bind.",
        ),
        (("env", "i", "PATH"), "env takes no PATH"),
    ],
)
def test_near_misses_are_proposed(words: tuple[str, ...], answer: str) -> None:
    with pytest.raises(RunError, match=re.escape(answer)):
        cli.parse(list(words))


def test_a_verb_forgotten_before_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.img").touch()
    monkeypatch.chdir(tmp_path)
    for words, answer in (
        ("-B /srv a.img ls", "singrun exec -B /srv a.img ls"),
        ("a.img ls -l", "singrun exec a.img ls -l"),
        ("--nv a.img", "singrun run --nv a.img"),
        ("a.img", "singrun ./a.img"),
    ):
        with pytest.raises(RunError, match=re.escape(f": {answer}") + "$"):
            cli.parse(words.split())


def test_a_first_word_that_is_neither_verb_nor_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="There is no file of that name, either"):
        cli.parse(["tool.img", "ls"])
    (tmp_path / "tools.img").touch()
    for words in (["tool.img", "ls"], ["help", "tool.img"]):
        with pytest.raises(RunError, match=re.escape("Did you mean the image tools.img?")):
            cli.parse(words)


def test_options_may_follow_an_image_that_no_command_follows() -> None:
    assert parsed("env", "i.img", "--why", "PATH").program.why == "PATH"


def test_help_has_that_of_every_verb_and_of_images(tmp_path: Path) -> None:
    assert cli.parse(["help"]) == cli.parse(["--help"])
    for verb in manual.VERBS:
        assert cli.parse(["help", verb]) == cli.parse([verb, "--help"])
    image = tmp_path / "a.img"
    image.touch()
    assert parsed("help", str(image)).program.verb == "exec"


def test_every_option_of_the_help_is_understood() -> None:
    names = re.findall(r"--[a-z]+(?:-[a-z]+)*", manual.overview())
    assert {"--bind", "--no-home", "--mount-with"} <= set(names)
    values = {
        "--bind": "/etc",
        "--home": "/h",
        "--pid-file": "p",
        "--mount": "type=bind,source=/etc,target=/x",
        "--pwd": "/",
        "--cwd": "/",
        "--mount-with": "loop",
        "--no-mount": "tmp",
        "--scratch": "/s",
        "--workdir": "/w",
        "--overlay": "/o",
        "--env": "A=b",
        "--env-file": "/dev/null",
        "--hostname": "h",
        "--app": "foo",
        "--shell": "/bin/sh",
        "--why": "PATH",
        "--network": "none",
        "--network-args": "x",
        "--cdi-dirs": "/x",
        "--dns": "192.0.2.1",
        "--security": "uid:1",
        "--add-caps": "chown",
        "--drop-caps": "all",
    }
    values |= {f"--{name}": "5" for name in options.LIMITS}
    for name in set(names) - {"--all", "--json", "--mpi", "--device"}:
        words = [name, values[name]] if name in values else [name]
        assert cli.parse(["run", *words, "image"])


@pytest.mark.parametrize(
    ("words", "variable", "part", "attribute"),
    [
        (["--nv"], "NO_NV", "hardware", "no_nv"),
        (["--rocm"], "ROCM_OFF", "hardware", "no_rocm"),
        (["--no-join"], "SHARENS", "isolation", "join"),
        (["--home", "/h"], "NO_HOME", "mounts", "no_home"),
        (["--keep-privs"], "NO_PRIVS", "isolation", "no_privs"),
        (["--writable-tmpfs"], "WRITABLE", "image", "writable"),
    ],
)
def test_an_option_is_preferred_to_the_variable_of_its_contrary(
    words: list[str],
    variable: str,
    part: str,
    attribute: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"SINGRUN_{variable}", "1")
    assert getattr(getattr(parsed("exec", "i.img", "true"), part), attribute)
    assert not getattr(getattr(parsed("exec", *words, "i.img", "true"), part), attribute)


def test_a_number_of_thousands_of_digits_is_no_user() -> None:
    with pytest.raises(RunError, match="Cannot understand --security uid:999"):
        parsed("exec", "--security", f"uid:{'9' * 5000}", "i.img", "true")


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    ("value", "result"),
    [
        (b"say '' \"hi\"", b"say '' \"hi\""),
        (rb"$A `echo z`", b"x  y z"),
        (rb"\$A \`", b"$A `"),
        (rb"a\b", rb"a\b"),
        (b"a\\", b"a\\"),
        (rb"a\\", b"a\\"),
        (b"a\\\\\\", b"a\\\\"),
        (rb"a\"b", rb"a\"b"),
        (rb'a\\"b', rb"a\"b"),
        (rb"a\\\"b", rb'a\\"b'),
        (rb"\"; echo broken; \"", rb"\"; echo broken; \""),
    ],
)
def test_a_value_that_a_shell_evaluates_stays_one_word(
    value: bytes, result: bytes, shell: str
) -> None:
    override = variables.Override(b"X", value, "")
    override.evaluate = True
    script = override.line() + b'printf %s "$X"\n'
    done = subprocess.run([shell], input=script, capture_output=True, env={"A": "x  y"})
    assert (done.returncode, done.stdout, done.stderr) == (0, result, b"")


def test_system_calls_raise_with_number_text_and_path() -> None:
    with pytest.raises(OSError, match="No such file or directory") as caught:
        syscalls.umount2("/no/such", 0)
    assert (caught.value.errno, caught.value.filename) == (2, "/no/such")
    with pytest.raises(OSError, match="/no/such"):
        syscalls.open_tree(syscalls.AT_FDCWD, "/no/such", 0)


def test_openat2_keeps_links_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/name").write_text("inside")
    (tmp_path / "link").symlink_to("/../../etc/name")
    root = os.open(tmp_path, os.O_PATH)
    fd = syscalls.openat2(root, "link", os.O_RDONLY, syscalls.RESOLVE_IN_ROOT)
    assert os.read(fd, 100) == b"inside"
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(root)


@pytest.mark.parametrize("word", ["²", "1²", "9" * 5000, "9999999999T", "٣", "", "G", "-1", "1.5"])
def test_a_size_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(RunError, match="cannot understand the cache size"):
        config.size_of(word, "SINGRUN_CACHESIZE")


def test_a_size_may_have_a_unit() -> None:
    assert [config.size_of(word, "") for word in ("0", "7", "5 kib")] == [0, 7, 5120]


def test_an_instance_that_is_no_text_is_just_not_there() -> None:
    with pytest.raises(RunError, match="There is no instance"):
        cli.parse(["stop", "\udcff"])


def test_lines_of_files_end_where_an_editor_ends_them(tmp_path: Path) -> None:
    """str.splitlines() would end one at each of these."""
    odd = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"
    (tmp_path / "file").write_text(f"A={odd}\nB=1\n")
    rows = [(name, value) for name, value, _ in variables.read_file(str(tmp_path / "file"))]
    assert rows == [("A", odd), ("B", "1")]
    (tmp_path / "conf").write_text(f"# {odd}\nlog = no\n")
    (tmp_path / "conf").chmod(0o600)
    assert config.entries(str(tmp_path / "conf")) == [(2, "log", "no")]
    (tmp_path / "policy").write_text(f"# {odd}\nrun path=/a\n")
    assert policy._parsed(str(tmp_path / "policy"))[0] == [("run", [("path", "/a")], 2)]
