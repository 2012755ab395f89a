"""Patterns and variables in Dockerfiles that are odd, or made to cost time or memory."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from singbuild.dockerfile import context, loading, variables
from singbuild.dockerfile.actions import Copy, Evaluation
from singbuild.dockerfile.evaluation import evaluate
from singbuild.errors import RecipeError
from singbuild.formats.directory import Sandbox
from singbuild.recipe.text import Text
from singbuild.steps import stage_files


def evaluated(text: str) -> Evaluation:
    return evaluate(loading.parse(Text("Dockerfile", text), {}), {}, "x86_64", lambda _: None)


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        evaluated(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("[a-c]", "abc"),
        ("[z-a]", ""),
        ("[^z-a]", "abcdz^-]"),
        ("[^a-c]", "dz^-]"),
        ("[^]", "^"),
        ("[]]", "]"),
        ("[a\\-c]", "ac-"),
        ("[\\]z]", "z]"),
        ("[ad-]", "ad-"),
        ("[[a&&b]", "ab"),
        ("[", ""),
        ("[]", ""),
        ("\\a", "a"),
    ],
)
def test_a_class_of_characters_is_one_of_go(pattern: str, names: str, tmp_path: Path) -> None:
    for name in "abcdz^-]":
        (tmp_path / name).touch()
    with Sandbox(tmp_path) as tree:
        entries = context.matching(tree, pattern, lambda _: False)
    assert {entry.path.decode() for entry in entries} == {*names}
    left_out = context.matcher([pattern])
    assert {name for name in "abcdz^-]" if left_out(name)} == {*names}


def test_names_that_are_no_text_match(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    name = b"d/caf\xe9"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    with Sandbox(tmp_path) as tree:
        for pattern in ("d/*", "*/*", "d/caf?"):
            entries = context.matching(tree, pattern, lambda _: False)
            assert [entry.path for entry in entries] == [name]
        (path,) = stage_files.matches(tree, "/d/c*")
        entry = tree.find(path)
        assert entry
        assert entry.path == name
    (tmp_path / ".dockerignore").write_bytes(name)
    assert context.ignored(str(tmp_path / "Dockerfile"))(name.decode(errors="surrogateescape"))


def test_a_name_that_json_alone_can_have_is_none() -> None:
    text = r'COPY ["\ud800", "/x"]'
    (action,) = evaluated(f"FROM x\n{text}\n").actions
    assert isinstance(action, Copy)
    assert all(word.encode() for word in action.sources)


def nested(depth: int) -> str:
    return "${a:-" * depth + "x" + "}" * depth


@pytest.mark.parametrize("text", ["FROM x\nENV A={}\n", "ARG A={}\nFROM x\n", "FROM {}\n"])
def test_braces_in_braces_are_bounded(text: str) -> None:
    assert variables.filled(nested(40), {}) == "x"
    assert "braces are in each other" in refused(text.format(nested(350)))


@pytest.mark.parametrize("text", ["FROM x\n{}", "{}FROM x\n", "FROM x\n{}COPY <<E /x\n$A$A\nE\n"])
def test_variables_that_double_each_other_are_bounded(text: str) -> None:
    word = "ARG" if text.startswith("{}") else "ENV"
    lines = f"{word} A=0123456789abcdef\n" + f"{word} A=$A$A\n" * 22
    assert "variables have brought over 16777216 characters" in refused(text.format(lines))


def test_what_is_removed_is_what_the_rules_say() -> None:
    """A pattern's shortest or longest match, found by trying all places."""
    words = ["".join(w) for n in range(6) for w in itertools.product("ab", repeat=n)]
    patterns = ["".join(p) for n in range(4) for p in itertools.product("a*?", repeat=n)]
    for pattern, word in itertools.product(patterns, words):
        rule = re.compile(pattern.replace("*", ".*").replace("?", "."))
        begins = [n for n in range(len(word) + 1) if rule.fullmatch(word[:n])] or [0]
        ends = [n for n in range(len(word) + 1) if rule.fullmatch(word[n:])] or [len(word)]
        expected = (word[begins[0] :], word[begins[-1] :], word[: ends[-1]], word[: ends[0]])
        results = tuple(
            variables.filled(f"${{A{how}{pattern}}}", {"A": word}) for how in ("#", "##", "%", "%%")
        )
        assert results == expected, (pattern, word)


@pytest.mark.parametrize("how", ["#", "##", "%", "%%"])
def test_a_pattern_of_many_stars_is_tried_once(how: str) -> None:
    value = "a" * 5000
    assert variables.filled(f"${{A{how}b{'*a' * 20}*b}}", {"A": value}) == value
    assert variables.filled(f"${{A{how}{'*a' * 20}*b}}", {"A": value}) == value


def test_the_escape_directive_counts_in_words_and_variables() -> None:
    outcome = evaluated(
        '# escape=`\nARG G=`$x\nFROM x\nARG G\nENV A=c:\\dir B=`$A C=a` b D="`"\\"\n'
        "LABEL l=$G\nCOPY a` b \\c /x/\nCOPY <<E /x\n\\$A `$A\nE\n"
    )
    env = dict(each.split("=", 1) for each in outcome.config["Env"])
    assert (env["A"], env["B"], env["C"], env["D"]) == ("c:\\dir", "$A", "a b", '"\\')
    assert outcome.config["Labels"] == {"l": "$x"}
    first, second = outcome.actions
    assert isinstance(first, Copy)
    assert isinstance(second, Copy)
    assert first.sources == ("a b", "\\c")
    assert second.documents[0].text == "$A `c:\\dir\n"  # a shell's text: always a backslash


def test_a_file_of_arguments_is_text(tmp_path: Path) -> None:
    dockerfile, file = tmp_path / "Dockerfile", tmp_path / "args"
    dockerfile.write_text("FROM x\n")
    file.write_text("# comment\nA=1\n\nB=2 3\n")
    arguments = loading.load(str(dockerfile), build_arg_file=file).arguments
    assert arguments == {"A": "1", "B": "2 3"}
    file.write_bytes(b"A=\xff\n")
    with pytest.raises(RecipeError, match="args:1:3: byte 0xff is not UTF-8 text"):
        loading.load(str(dockerfile), build_arg_file=file)


def test_triggers_are_read_in_linear_time() -> None:
    assert len(evaluated("FROM x\n" + "ONBUILD RUN true\n" * 40_000).config["OnBuild"]) == 40_000


@pytest.mark.parametrize("end", ["", "\\]"])
def test_a_pattern_of_brackets_is_read_in_linear_time(end: str) -> None:
    assert not context.matcher(["[" * 100_000 + end])("x")


def test_a_byte_order_mark_is_of_no_pattern(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes(b"\xef\xbb\xbfsecret\r\ncaf\xc3\xa9\r\n")
    is_left_out = context.ignored(str(tmp_path / "Dockerfile"))
    assert is_left_out("secret")
    assert is_left_out("café")
    assert not is_left_out("other")
