"""Options that variables give, and what a program is told by variables."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.mark.parametrize(
    ("name", "value", "script", "expected"),
    [
        ("BIND", "/etc:/one", "ls -d /one", "/one\n"),
        ("BINDPATH", "/etc:/one,/usr:/two:ro", "ls -d /one /two", "/one\n/two\n"),
        ("CLEANENV", "1", "echo $SECRET", "\n"),
        ("CLEANENV", "no", "echo $SECRET", "secret\n"),
        ("CONTAIN", "true", "ls -A ~", ""),
        ("CONTAINALL", "1", "echo $SECRET; ls -A ~", "\n"),
        ("CWD", "/etc", "pwd", "/etc\n"),
        ("HOME", "/etc:/mine", "echo $HOME; ls -d /mine/hosts", "/mine\n/mine/hosts\n"),
        ("HOSTNAME", "node-7", "hostname", "node-7\n"),
        ("NO_HOME", "yes", "ls -A ~ 2>/dev/null || echo gone", "gone\n"),
        ("NO_MOUNT", "sys", "ls -A /sys", ""),
        ("PID", "1", "test $$ -lt 20 && echo apart", "apart\n"),
        ("SCRATCH", "/scr", "ls -A /scr", ""),
        ("WRITABLE_TMPFS", "1", "touch /new && ls /new", "/new\n"),
        ("ENV_FILE", "{file}", "echo $FROM_FILE", "it is\n"),
    ],
)
@pytest.mark.parametrize("family", ["APPTAINER", "SINGULARITY"])
def test_a_variable_stands_for_its_option(
    bench: Bench, family: str, name: str, value: str, script: str, expected: str
) -> None:
    user = bench.people["user"]
    file = bench.directory / "variables"
    file.write_text("FROM_FILE=it is\n")
    environment = {f"{family}_{name}": value.format(file=file), "SECRET": "secret"}
    environment |= user.environment()
    assert user.output("exec", bench.tree, "sh", "-c", script, env=environment, cwd="/") == expected


def test_an_option_is_preferred_to_its_variable_and_binds_are_all_made(
    person: Person, bench: Bench
) -> None:
    environment = {
        "APPTAINER_PWD": "/etc",
        "SINGULARITY_BIND": "/etc:/one",
        "SINGRUN_BIND": "/usr:/two",
    }
    environment |= person.environment()
    options = ("--cwd", "/bin", "-B", "/etc:/three")
    script = "pwd; ls -d /one /two /three"
    done = person.singrun("exec", *options, bench.image, "sh", "-c", script, env=environment)
    assert done.stdout == b"/bin\n/three\n/two\n"  # of one variable its first spelling counts
    environment = {"SINGULARITY_CONTAIN": "perhaps"} | person.environment()
    done = person.singrun("exec", bench.image, "true", env=environment)
    assert done.returncode == 255
    assert b"$SINGULARITY_CONTAIN: Cannot understand contain perhaps" in done.stderr


def test_a_variable_that_means_nothing_is_named_once(person: Person, bench: Bench) -> None:
    environment = {"SINGULARITY_BNID": "/etc", "APPTAINER_VM": "1", "SINGULARITY_CACHEDIR": "/x"}
    environment |= person.environment()
    done = person.singrun("exec", bench.image, "true", env=environment)
    assert done.returncode == 0
    output = done.stderr.decode().splitlines()
    assert len(output) == 2
    assert any(
        "SINGULARITY_BNID has no effect; did you mean SINGULARITY_BIND?" in s for s in output
    )
    assert any("APPTAINER_VM has no effect" in each for each in output)


def test_a_program_is_told_where_it_is(person: Person, bench: Bench) -> None:
    output = person.output("exec", "-B", "/etc:/one,/usr:/two", bench.image, "env").splitlines()
    for family in ("SINGULARITY", "APPTAINER"):
        assert f"{family}_BIND=/one,/two" in output
        assert f"{family}_COMMAND=exec" in output
        assert f"{family}_CONTAINER={bench.image}" in output
        assert f"{family}_ENVIRONMENT=/.singularity.d/env/91-environment.sh" in output
        assert f"{family}_NAME={bench.image.name}" in output


def test_home_comes_from_the_password_database_where_the_caller_has_none(
    person: Person, bench: Bench
) -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    for options in ((), ("--no-home",), ("--cleanenv",)):
        output = person.output(
            "exec", *options, bench.image, "sh", "-c", "echo $HOME", env=environment
        )
        assert output == f"{person.home}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("A=1,B=2", "1|2"),
        ("A=1,2", "1,2|"),
        ("A=x=y,z", "x=y,z|"),
        ('"A=1,B=3",B=2', "1,B=3|2"),
        ('A={"a":"b=c","d":"e"}', '{"a":"b=c","d":"e"}|'),
    ],
)
def test_one_env_sets_many(bench: Bench, words: str, expected: str) -> None:
    user = bench.people["user"]
    output = user.output("exec", "--env", words, bench.tree, "sh", "-c", 'echo "$A|$B"')
    assert output == f"{expected}\n"
    done = user.singrun("exec", "--env", '"A=1,B=3', bench.tree, "true")
    assert (done.returncode, b"Quote a field" in done.stderr) == (255, True)


def test_values_are_evaluated_where_that_is_asked_for(person: Person, bench: Bench) -> None:
    environment = person.environment() | {"SINGULARITYENV_A": 'in "$FROM_IMAGE" $(echo x)'}
    for options, expected in (
        ((), 'in "$FROM_IMAGE" $(echo x)'),
        (("--eval",), 'in "yes it is" x'),
    ):
        output = person.output(
            "exec", *options, bench.image, "sh", "-c", 'echo "$A"', env=environment
        )
        assert output == f"{expected}\n"


def test_compat_and_the_umask(person: Person, bench: Bench) -> None:
    script = "umask; echo $$; touch /new && ls /new; ls -A ~"
    options: images.Options = {"umask": 0o027}
    done = person.singrun("exec", "--compat", bench.image, "sh", "-c", script, **options)
    first, pid, *rest = done.stdout.decode().split()
    assert (first, int(pid) < 20, rest) == ("0022", True, ["/new"])
    assert person.singrun("exec", bench.image, "sh", "-c", "umask", **options).stdout == b"0027\n"


def test_what_an_instance_shares_is_its_own_and_other_options_are_named(
    person: Person, bench: Bench
) -> None:
    name = f"instance://variables-{os.getpid()}"
    assert person.singrun("start", bench.image, name.removeprefix("instance://")).returncode == 0
    try:
        options = ("--contain", "-B", "/etc:/one", "--pid", "--userns", "--pwd", "/etc")
        done = person.singrun(
            "exec", *options, name, "sh", "-c", "ls /one; pwd; echo $SINGULARITY_BIND"
        )
        assert done.stdout == b"/etc\n\n"
        output = done.stderr.decode().splitlines()
        assert f"Without effect on {name}, as it is started: --contain --bind --pid" in output[0]
    finally:
        person.call(person.launcher, "stop", name)
