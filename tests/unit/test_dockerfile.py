"""What a Dockerfile's text means: instructions, variables, stages, what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from singbuild.console.display import Console
from singbuild.dockerfile import context, loading, reader, variables
from singbuild.dockerfile.actions import Copy, Evaluation, Run
from singbuild.dockerfile.evaluation import DEFAULT_PATH, evaluate
from singbuild.errors import RecipeError, UsageError
from singbuild.plan import plan
from singbuild.recipe.recipe import Recipe
from singbuild.recipe.text import Text
from singbuild.steps import accounts
from singbuild.testing.engine import Recorder
from singbuild.tree.rootfs import Rootfs


def recipe(text: str, **arguments: str) -> Recipe:
    return loading.parse(Text("Dockerfile", text), arguments)


def evaluated(text: str, base: Mapping[str, Any] | None = None, **arguments: str) -> Evaluation:
    return evaluate(recipe(f"FROM base\n{text}", **arguments), base or {}, "x86_64", lambda _: None)


def config(text: str, base: Mapping[str, Any] | None = None, **arguments: str) -> Mapping[str, Any]:
    return evaluated(text, base, **arguments).config


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        evaluated(text)
    return str(caught.value)


def run(text: str) -> Run:
    outcome = evaluated(text).actions[0]
    assert isinstance(outcome, Run)
    return outcome


@pytest.mark.parametrize(
    ("name", "text", "is_one"),
    [
        ("Dockerfile", "", True),
        ("dir/Containerfile.dev", "", True),
        ("app.dockerfile", "", True),
        ("r.def", "# c\n\nFROM x\n", True),
        ("r.def", "ARG A=1\nFROM x\n", True),
        ("r.def", "From: x\nBootstrap: docker\n", False),
        ("r.def", "Bootstrap: docker\nFrom: x\n", False),
        ("<stdin>", "from x\n", True),
        ("Dockerfile2", "FORM x\nRUN true\n", True),
        ("Dockerfile2", "RUN true\nFORM x\n", True),
        ("r.def", "Bootstrap x\n%post\n", False),
        ("r.def", "Bootstap: x\nRUN true\n", False),
        ("r.def", "notes\nTO whom\n", False),
    ],
)
def test_a_dockerfile_is_told_by_name_or_instructions(name: str, text: str, is_one: bool) -> None:
    assert loading.is_dockerfile(Text(name, text)) == is_one


def test_a_typing_error_in_a_dockerfile_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile2"
    path.write_text("FORM debian:12\nRUN true\n")
    with pytest.raises(RecipeError, match="there is no instruction FORM") as caught:
        loading.load(str(path))
    assert "Did you mean FROM?" in str(caught.value)


def test_lines_go_on_over_comments_and_blanks() -> None:
    assert run("RUN a \\\n# no\n\n   b\\\n c\n").argv == ("/bin/sh", "-c", "a    b c")
    (outcome,) = reader.instructions(Text("D", "# escape=`\nRUN a`\n b\n"))
    assert (outcome.rest, outcome.line) == ("a b", 2)


def test_documents() -> None:
    assert run("RUN <<E\na\n b\nE\n").argv[-1] == "a\n b\n"
    assert run("RUN <<-E\n\ta\n\tE\n").argv[-1] == "a\n"
    assert run("RUN <<'E E'\na\nE E\n").argv[-1] == "a\n"
    assert run("RUN x <<A >y <<B\n1\nA\n2\nB\n").argv[-1] == "x <<A >y <<B\n1\nA\n2\nB"
    assert run("RUN <<E\n#!/bin/x\nE\n").script == "#!/bin/x\n"
    assert run("RUN echo '<<E'\n").argv[-1] == "echo '<<E'"
    assert run("RUN cat <<<word\n").argv[-1] == "cat <<<word"
    assert "Dockerfile:2: the here-document E does not end" in refused("RUN <<E\na\n").replace(
        ":2:1:", ":2:"
    )


@pytest.mark.parametrize(
    ("opened", "names"),
    [
        ("""<<'E"OF'""", ['E"OF']),
        ("""<<'E"OF' 6 >/x <<'E"OF' 6 """, ['E"OF', 'E"OF']),
        ("""<<"it's" """, ["it's"]),
        (r"""<<"a\"b\\" """, ['a"b\\']),
        ("""'"' <<E '"'""", ["E"]),
        ("""<<-'A <<B' "<<C" <<D""", ["A <<B", "D"]),
        ("""<<'' <<"" <<'A""", []),
        ("""<<<"x <<E y" """, []),
        ("""<"x <<E y" """, []),
    ],
)
def test_documents_by_their_names(opened: str, names: list[str]) -> None:
    text = "".join(f"{number}\n{name}\n" for number, name in enumerate(names))
    (instruction,) = reader.instructions(Text("D", f"RUN cat {opened}\n{text}"))
    documents = [(each.name, each.text) for each in instruction.documents]
    assert documents == [(name, f"{number}\n") for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${A}", "one-one"),
        ("${A:-x}${N:-x}${E:-x}${E-x}", "onexx"),
        ("${A:+x}${N:+x}${E:+x}${E+x}", "xx"),
        ("'$A'\"$A\"", "$Aone"),
        ('\\$A "a\\"b\\c"', '$A a"b\\c'),
        ("${N:-$A}", "one"),
        ("${P#a.}${P##*.} ${P%.*}${P%%.*}", "b.cc a.ba"),
        ("$ $1", "$ $1"),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert variables.filled(text, {"A": "one", "E": "", "P": "a.b.c"}) == value


def test_pairs_in_both_forms() -> None:
    values = {"A": "x y"}
    assert variables.pairs("B=$A C='d e' F=g\\ h", values) == [
        ("B", "x y"),
        ("C", "d e"),
        ("F", "g h"),
    ]
    assert variables.pairs('B the $A "rest"', values) == [("B", "the x y rest")]


def test_an_environment_is_filled_from_before_its_instruction() -> None:
    env = config("ENV A=1\nENV A=2 B=$A\n")["Env"]
    assert {"A=2", "B=1"} <= set(env)


def test_arguments_are_given_or_default_and_env_wins() -> None:
    text = "ARG A=d\nARG B=d\nENV B=e\nLABEL a=$A b=$B\n"
    assert config(text, A="g", B="g")["Labels"] == {"a": "g", "b": "e"}
    outcome = evaluate(recipe("ARG G=1\nFROM x\nARG G\nLABEL g=$G\n"), {}, "x86_64", lambda _: None)
    assert outcome.config["Labels"] == {"g": "1"}


def test_an_argument_without_a_default_keeps_the_platforms_value() -> None:
    text = "ARG TARGETARCH\nARG G\nFROM out-$TARGETARCH\nARG G\nRUN true\n"
    loaded = recipe(text)
    header = loaded.header("From")
    assert header
    assert header.value == f"out-{loading.platform_variables('')['TARGETARCH']}"
    (action,) = evaluate(loaded, {}, "x86_64", lambda _: None).actions
    assert isinstance(action, Run)
    assert "G" not in action.environment  # as with Docker: `set -u` tells of it


def test_an_entrypoint_drops_the_base_images_command_only() -> None:
    base = {"Cmd": ["base"]}
    assert "Cmd" not in config('ENTRYPOINT ["e"]\n', base)
    assert config('CMD ["c"]\nENTRYPOINT ["e"]\n', base)["Cmd"] == ["c"]
    assert config("LABEL a=1\n", base)["Cmd"] == ["base"]


def test_the_shell_form_uses_the_shell() -> None:
    text = 'SHELL ["/bin/bash", "-c"]\nRUN a\nCMD b\n'
    assert config(text)["Cmd"] == ["/bin/bash", "-c", "b"]
    assert run(text).argv == ("/bin/bash", "-c", "a")


def test_triggers_come_first() -> None:
    actions = evaluated("RUN b\n", {"OnBuild": ["RUN a"]}).actions
    assert [action.argv[-1] for action in actions if isinstance(action, Run)] == ["a", "b"]
    assert config("ONBUILD RUN x\n")["OnBuild"] == ["RUN x"]


def test_stages_are_named_numbered_and_shared() -> None:
    last = recipe(
        "FROM img AS One\nRUN a\nFROM one AS two\nCOPY --from=0 /a /b\nFROM scratch\n"
        "COPY --from=two /b /c\nRUN --mount=type=bind,from=other:1,target=/o true\n"
    )
    assert [stage.stage for stage in last.stages] == ["one", "two", "other:1"]
    assert (last.stages[1].base, last.base) == ("one", "scratch")
    assert last.sources == ("two", "other:1")
    assert [stage.stage for stage in last.needed] == ["one", "two", "other:1"]
    header = last.stages[1].header("From")
    assert header
    assert header.value == "img"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("RUNN x\n", "Dockerfile:2:1: there is no instruction RUNN"),
        ("RUN\n", "RUN has no argument"),
        ("RUN --mount=type=ssh true\n", "Dockerfile:2: RUN --mount=type=ssh is not supported"),
        ("RUN --network=mine true\n", "RUN --network=mine is not supported"),
        ("RUN --mount=target=. true\n", "RUN --mount=type=bind has the target /"),
        ("RUN --mount=type=cache,target=/c,mode=rw x\n", "Dockerfile:2: RUN --mount=type=cache,mo"),
        ("RUN --mount=type=secret,id=t,mode=0888 x\n", "mode=0888 is no mode"),
        ("RUN --mount=type=secret,id=t,uid=ann x\n", "uid=ann is no uid"),
        ("RUN --mount=type=secret,id=t,gid=4294967296 x\n", "gid=4294967296 is no gid"),
        ("ADD --parents a b\n", "ADD --parents= is not supported"),
        ("COPY --checksum=sha256:0 a b\n", "COPY --checksum=sha256:0 is not supported"),
        ("ADD --keep-git-dir=true https://x/y.git#main /y\n", "ADD of a git repository is not"),
        ("ADD https://x/y.git?branch=main /y\n", "ADD of a git repository is not supported"),
        ("ADD git@x:y.git /y\n", "ADD of a git repository is not supported"),
        ("COPY a\n", "COPY has sources and a destination"),
        ("COPY a b c\n", "COPY of several sources needs a directory"),
        ("ENV A\n", "A has no value"),
        ("ENV A=${B:?why}\n", "B: why"),
        ("LABEL a='b\n", "the quote ' is not closed"),
        ("SHELL sh\n", "SHELL is a list"),
        ("ONBUILD FROM x\n", "ONBUILD FROM is not allowed"),
    ],
)
def test_what_is_refused_names_its_line(text: str, what: str) -> None:
    assert what in refused(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("RUN x\n", "RUN comes before FROM"),
        ('ARG a="b\nFROM x\n', 'the quote " is not closed'),
        ("# nothing\n", "the Dockerfile has no FROM"),
        ("FROM a b\n", "FROM has an image, and perhaps a name"),
        ("FROM a AS b\nFROM c AS B\n", "b is no name for a stage, or that of another"),
        ("FROM a\nCOPY --from=3 /x /y\n", "there is no stage 3 before this one"),
        ("FROM --platform=windows/amd64 a\n", "there are no images for it here"),
    ],
)
def test_what_is_wrong_with_stages(text: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe(text)


def test_what_is_left_out_of_the_context() -> None:
    lines = ["# c", "*.log", "**/tmp", "a/b", "!a/b/keep", "x?z", "/top"]
    left_out = context.matcher(lines)
    out = ["m.log", "tmp", "d/e/tmp", "tmp/f", "a/b", "a/b/c", "xyz", "top"]
    paths = ["d/m.log", "a/b/keep", "xz", "d/top", "a"]
    assert [path for path in (*out, *paths) if left_out(path)] == out


def test_a_named_dockerignore_wins(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("one\n")
    (tmp_path / "my.Dockerfile.dockerignore").write_text("two\n")
    assert context.ignored(str(tmp_path / "Dockerfile"))("one")
    assert not context.ignored(str(tmp_path / "my.Dockerfile"))("one")
    assert context.ignored(str(tmp_path / "my.Dockerfile"))("two")


def test_copies_know_their_stage_and_directory() -> None:
    (outcome,) = evaluated("WORKDIR /w\nUSER joe\nCOPY --chown=5:6 a b d/\n").actions[1:]
    assert isinstance(outcome, Copy)
    assert (outcome.sources, outcome.destination, outcome.directory) == (("a", "b"), "d/", "/w")
    assert (outcome.owner, outcome.user, outcome.stage) == ("5:6", "joe", "")


@pytest.mark.parametrize(
    ("target", "stage", "before"),
    [
        ("", "last", ["one", "stage-1"]),
        ("One", "one", []),
        ("1", "stage-1", ["one"]),
        ("0", "one", []),
    ],
)
def test_the_target_is_the_image(target: str, stage: str, before: list[str]) -> None:
    text = "FROM scratch AS one\nFROM one\nENV A=2\nFROM scratch AS last\nCOPY --from=one a /\n"
    outcome = loading.parse(Text("Dockerfile", text), {}, target)
    assert (outcome.stage, [each.stage for each in outcome.stages]) == (stage, before)


def test_a_target_that_is_none_is_answered_by_the_nearest() -> None:
    with pytest.raises(UsageError, match="no such stage") as caught:
        loading.parse(Text("Dockerfile", "FROM scratch AS builder\n"), {}, "build")
    assert "builder" in caught.value.remedy


def test_arguments_in_a_file_are_lines_as_an_editor_shows_them(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "arguments").write_text("# A=0\nA=one\x85two\u2028\x0c=3\n")
    file = tmp_path / "arguments"
    loaded = loading.load(str(tmp_path / "Dockerfile"), build_arg_file=file)
    assert loaded.arguments == {"A": "one\x85two\u2028\x0c=3"}
    file.write_bytes(b"A=\xff\n")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        loading.load(str(tmp_path / "Dockerfile"), build_arg_file=file)


def test_a_definition_file_has_no_target(tmp_path: Path) -> None:
    (tmp_path / "a.def").write_text("Bootstrap: busybox\n")
    with pytest.raises(UsageError, match="--target is of Dockerfiles"):
        loading.load(str(tmp_path / "a.def"), target="one")


def test_values_that_nobody_takes_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    text = "ARG ONE\nFROM scratch AS a\nARG TWO=2 THREE\nFROM a\nRUN x\n"
    loaded_recipe = recipe(text, ONE="1", THREE="3", FOUR="4")
    plan.make(loaded_recipe, Console(io.StringIO()))
    message = capsys.readouterr().err
    assert "--build-arg FOUR: no ARG of Dockerfile has that name" in message
    assert message.count("--build-arg") == 1


def test_a_hostile_configuration_is_data() -> None:
    base = {"Env": ["A=1", "B=\0", 7, "none"], "Shell": ["/bin/x\0", 3], "OnBuild": ["RUN x"]}
    outcome = evaluated("RUN y\n", base)
    assert outcome.config["Env"] == ["A=1", f"PATH={DEFAULT_PATH}"]
    assert [action.argv for action in outcome.actions if isinstance(action, Run)] == [
        ("/bin/sh", "-c", "x"),
        ("/bin/sh", "-c", "y"),
    ]
    assert "Dockerfile:1:1: there is no instruction EVIL" in refused_with({"OnBuild": ["EVIL"]})


def refused_with(base: Mapping[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        evaluated("", base)
    return str(caught.value)


@pytest.mark.parametrize("words", ["9" * 30, "4294967295", "-1", "joe:nobody", "ann"])
def test_a_user_that_is_none_is_refused(words: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("joe:x:7:8::/home/joe:\nbad:x:99999999999:1:::\nshort\n")
    rootfs = Rootfs(tmp_path, Recorder())
    for meaning in (accounts.account, accounts.owner):
        with pytest.raises(accounts.UnknownAccountError):
            meaning(rootfs, words)
    assert accounts.account(rootfs, "joe") == accounts.Account(7, 8, (), "/home/joe")
    assert accounts.account(rootfs, "12:13") == accounts.Account(12, 13)
    assert accounts.owner(rootfs, "12") == (12, 12)


@pytest.mark.parametrize(
    "word", ["RUN", "CMD", "ENTRYPOINT", "VOLUME", "COPY a", "HEALTHCHECK CMD"]
)
def test_brackets_in_brackets_are_no_exec_form(word: str) -> None:
    evaluated(f"{word} {'[' * 100_000}\n")


def test_a_mark_of_continuation_alone_is_no_instruction() -> None:
    with pytest.raises(RecipeError, match="there is no instruction"):
        recipe("FROM x\n\n\\\n")


@pytest.mark.parametrize("text", ["ENV \x1b[0m", "ADD x.\x1b[0m y/ z", "ENV A=b ${\x1b}"])
def test_no_word_of_a_dockerfile_reaches_a_terminal_as_it_is(text: str) -> None:
    assert "\x1b" not in refused(text + "\n")


@pytest.mark.parametrize("value", [5, [5], {"a": 5}, "\ud800", "a\0b", [""], True])
def test_a_strangers_configuration_may_have_any_shape(value: object) -> None:
    keys = ("Env", "Shell", "Labels", "ExposedPorts", "Volumes", "User", "WorkingDir", "Cmd")
    text = "WORKDIR a\nRUN b\nEXPOSE 1\nVOLUME /v\nLABEL a=b\nENV c=d\n"
    outcome = evaluated(text, dict.fromkeys(keys, value))
    assert outcome.config["ExposedPorts"]["1/tcp"] == outcome.config["Volumes"]["/v"] == {}
    assert outcome.config["Labels"]["a"] == "b"
    assert "c=d" in outcome.config["Env"]
    assert outcome.config["WorkingDir"].endswith("/a")
    json.dumps(outcome.config).encode()
    if value == [""]:
        with pytest.raises(RecipeError, match="there is no instruction"):
            evaluated("RUN b\n", {"OnBuild": value})
    else:
        evaluated("RUN b\n", {"OnBuild": value})
