"""Templates: which text is one, where values come from, what a hostile one can do."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from singbuild.errors import HostError, RecipeError, UsageError
from singbuild.recipe.grammar import Recipe, load
from tests.bench.host import PATIENCE, wait_until

HEAD = "Bootstrap: busybox\n"
LOOP = (
    HEAD + "%arguments\n%post\n"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}\n"
)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str, *build_args: str, file: str = "", values: str = "") -> Recipe:
    for name, content in (("r.def", text), ("build.args", file), ("values.yaml", values)):
        Path(name).write_text(content)
    return load(
        "r.def",
        build_args=build_args,
        build_arg_file=Path("build.args") if file else None,
        values=Path("values.yaml") if values else None,
    )


def test_a_tag_in_a_recipe_that_is_no_template_is_told_of() -> None:
    recipe = loaded(HEAD + "%post\n    # {{ not }}\n    echo {{ version }} {{ other }}\n")
    (warning,) = recipe.warnings
    assert warning.startswith("r.def:4: {{ version }} stays as it is: a recipe with neither")
    assert not loaded(HEAD + "%post\n    docker ps --format '{{.ID}}' ${{x}}\n").warnings
    assert not loaded(HEAD + "%post\n    echo {{ version }}\n", "version=1").warnings


def filled(body: str, *build_args: str, arguments: str = "", values: str = "") -> str:
    text = f"{HEAD}%arguments\n{arguments}\n%post\n{body}\n"
    return loaded(text, *build_args, values=values).sections["post"].body().removesuffix("\n")


def refused(text: str, *build_args: str, file: str = "", values: str = "") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        loaded(text, *build_args, file=file, values=values)
    return caught.value


# ── what is a template ───────────────────────────────────────────────────────


def test_without_arguments_the_text_is_literal() -> None:
    text = HEAD + "%post\n docker inspect -f '{{ .Id }}' {% x %}\n"
    result = loaded(text)
    assert result.text == text
    assert dict(result.arguments) == {}


@pytest.mark.parametrize("settings", [{"build_args": ["a=1"]}, {"file": "a=1"}, {"values": "a: 1"}])
def test_any_value_makes_it_a_template(settings: dict[str, list[str] | str]) -> None:
    build_args = settings.get("build_args", [])
    file, values = str(settings.get("file", "")), str(settings.get("values", ""))
    result = loaded(HEAD + "%post\n{{ a }}\n", *build_args, file=file, values=values)
    assert result.sections["post"].body() == "1\n"


@pytest.mark.parametrize(
    "shell",
    [
        "${#name}",
        "${#}",
        "${##}",
        "${##*/}",
        "${name%%.*}",
        "${name%.*}",
        "${name##*/}",
        "{#not a comment#}",
        "awk '{print $1}'",
        "f() { x; }",
        "a=(${b[@]}); echo ${#b[@]}",
        "$(( 1 % 2 ))",
        "}} %} #}",
        "# it's a comment",
    ],
)
def test_shell_survives(shell: str) -> None:
    assert filled(f"{{{{ a }}}} {shell}", arguments="a=1") == f"1 {shell}"


def test_what_comes_out_is_a_plain_recipe() -> None:
    result = loaded(HEAD + "%arguments\na={{b.c}}\n%post\n{{ a }} {% raw %}{{ c }}{% endraw %}\n")
    assert result.sections["post"].body() == "{{b.c}} {{ c }}\n"
    assert "arguments" not in result.sections
    again = loaded(result.text)
    assert again.text == result.text
    assert dict(again.arguments) == {}


# ── values ───────────────────────────────────────────────────────────────────


def test_precedence() -> None:
    text = HEAD + "%arguments\na=1\nb=1\nc=1\nd=1\n%post\n{{ a }}{{ b }}{{ c }}{{ d }}\n"
    result = loaded(text, "d=3", "d=4", file="# x\n\nc=3\nd=3\n", values="b: 2\nc: 2\nd: 2\n")
    assert result.sections["post"].body() == "1234\n"
    assert dict(result.arguments) == {"a": "1", "b": 2, "c": "3", "d": "4"}


def test_values_of_lines_and_options() -> None:
    arguments = " a = \"x  \" \nb='y'\nc=a=b # c\nd=\n"
    assert filled("[{{ a }}{{ b }}{{ c }}{{ d }}]", arguments=arguments) == "[\"x  \"'y'a=b # c]"
    assert filled("[{{ a }}]", 'a="x" ', arguments="a=") == '["x" ]'


def test_each_stage_may_declare_the_same_argument() -> None:
    """As Apptainer has it, where each stage has arguments of its own."""
    stage = "Bootstrap: docker\nFrom: a:{{ v }}\nStage: %s\n%%arguments\n    v=%s\n\n"
    recipe = loaded(stage % ("one", "1") + stage % ("two", "1"))
    assert [each.headers[1].value for each in (*recipe.stages, recipe)] == ["a:1"] * 2
    assert "v is given twice, with another value" in str(
        refused(stage % ("one", "1") + stage % ("two", "2"))
    )


def test_a_comment_is_text() -> None:
    body = "# later: {{ OTHER }} {{{x}}}\n  # {{ a.b }}\n#!{{ a }}\n{{ a }} # {{ a }}\n"
    expected = "# later: {{ OTHER }} {{{x}}}\n  # {{ a.b }}\n#!1\n1 # 1\n"
    assert filled(body, arguments="a=1") == expected


def test_yaml_keeps_what_is_written() -> None:
    values = "a: {v: 3.10, no: no, t: 12:30, o: 010, d: 2026-01-01}\nl: [x, 1]\nb: true\nn: null\n"
    body = (
        "{{ a.v }} {{ a.no }} {{ a.t }} {{ a.o }} {{ a.d }} {{ l|join('+') }} {{ l[1] + 1 }} "
        "{{ b }} [{{ n }}] {{ 'yes' if b else 'no' }}"
    )
    expected = "3.10 no 12:30 010 2026-01-01 x+1 2 true [] yes"
    assert filled(body, values=values) == expected


def test_only_names_of_the_recipe_are_recorded() -> None:
    result = loaded(HEAD + "%post\n{{ a }}\n", values="a: 1\nother: 2\n")
    assert dict(result.arguments) == {"a": 1}
    with pytest.raises(TypeError):
        result.arguments["a"] = 2  # type: ignore[index]


def test_a_name_used_but_not_declared_may_be_given() -> None:
    assert filled("{{ b }}", "b=2", arguments="a=1") == "2"


def test_a_name_declared_but_not_used_may_be_given() -> None:
    assert filled("x", "a=2", arguments="a=1") == "x"


@pytest.mark.parametrize("option", ["a", "", "=1", "1a=1", "a b=1", "a.b=1", "é=1", "if=1", "b=1"])
def test_bad_build_args(option: str) -> None:
    with pytest.raises(UsageError) as caught:
        filled("{{ a }}", option, arguments="a=1")
    assert caught.value.what.startswith(f"--build-arg {option}: ")
    assert caught.value.remedy


def test_bytes_that_are_no_text_in_a_build_arg() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        filled("{{ a }}", "a=\udcff", arguments="a=1")


@pytest.mark.parametrize(
    ("values", "line", "column"),
    [
        ("a: 1\nb: {x: 1, x: 2}\n", 2, 11),
        ("a: 1\na: 2\n", 2, 1),
        ("a: 1\n b: 2\n", 2, 3),
        ("a: 1\nmy-name: 2\n", 2, 1),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2, 4),
        ("a: \x01\n", 0, 0),
        ("a: 1\n--- \nb: 1\n", 2, 1),
        ("? [x, y]\n: 1\n", 1, 3),
        ("a: !!set {x, y}\n", 1, 1),
    ],
)
def test_bad_values_are_located(values: str, line: int, column: int) -> None:
    error = refused(HEAD + "%post\n", values=values)
    assert (error.path, error.line, error.column) == ("values.yaml", line, column)


def test_a_values_file_of_aliases_is_no_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begun = time.monotonic()
    assert "10,000 values" in refused(HEAD + "%post\n", values="\n".join(lines)).what
    assert time.monotonic() - begun < 5 * PATIENCE


@pytest.mark.parametrize("missing", ["build_arg_file", "values"])
def test_missing_files(missing: str) -> None:
    Path("r.def").write_text(HEAD)
    with pytest.raises(RecipeError, match=r"gone\.txt: there is no such file"):
        load("r.def", **{missing: Path("gone.txt")})  # type: ignore[arg-type]


# ── places ───────────────────────────────────────────────────────────────────


def numbers(text: str, *build_args: str) -> list[tuple[str, int]]:
    return [(line.text, line.number) for line in loaded(text, *build_args).sections["post"].lines]


def test_lines_keep_their_numbers_through_loops_and_conditions() -> None:
    text = (
        HEAD + "%arguments\na=x\n%post\n"
        "{%- if a == 'y' %}\n no\n{%- endif %}\n"
        "{%- for n in [1, 2] %}\n  {{ n }}\n{%- endfor %}\n"
        " last\n"
    )
    result = loaded(text).sections["post"].lines
    assert [(line.text, line.number) for line in result] == [("  1", 9), ("  2", 9), (" last", 11)]


def test_a_value_of_several_lines_stays_on_its_line() -> None:
    assert numbers(HEAD + "%post\n{{ a }}\nend\n", "a=x\ny") == [("x", 3), ("y", 3), ("end", 4)]


def test_a_tag_of_several_lines() -> None:
    assert numbers(HEAD + "%post\n{{ a\n ~\n 'y' }} z\nend\n", "a=x") == [("xy z", 3), ("end", 6)]


def test_scripts_tell_the_templates_lines() -> None:
    section = loaded(
        HEAD + "%arguments\n%post\n{%- for n in [1, 2] %}\n {{ n }}\n{%- endfor %}\nfalse\n"
    ).sections["post"]
    failing = section.script().split("\n").index("false") + 1
    assert section.recipe_line(failing) == 7


def test_an_error_after_a_loop_names_the_templates_line() -> None:
    text = HEAD + "{% for n in [1,2,3] %}\nInclude: {{ n }}\n{% endfor %}\n%arguments\n"
    error = refused(text + "%post\n\n%{{ 'xyz' }}\n")
    assert (error.line, error.text) == (8, "%xyz")
    assert "The template's line is: %{{ 'xyz' }}" in error.why


def test_places_are_unknown_only_where_a_template_measures_itself() -> None:
    text = HEAD + "%arguments\n%post\n{% set t %}\nabc\n{% endset %}\n{{ t|length }}\n%xyz\n"
    error = refused(text)
    assert error.path == "r.def (rendered)"
    result = loaded(text.replace("%xyz", "xyz"))
    assert result.path == "r.def"
    assert "5" in result.sections["post"].body().split("\n")


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ("x\n  {{ nme }}", 6, 6),
        ("x\n{{ a.b.c }}", 6, 6),
        ("{% for x in [1] %}\n{{ nme }}\n{% endfor %}", 6, 4),
        ("{% if 1 %}\n\n{{ nme + 1 }}\n{% endif %}", 7, 4),
        ("x\n{{ a", 6, 1),
        ("x\n{% endif %}", 6, 1),
        ("x\n{{ a|nofilter }}", 6, 1),
        ("x\n{{ 1 / 0 }}", 6, 1),
    ],
)
def test_template_errors_are_located(body: str, line: int, column: int) -> None:
    error = refused(f"{HEAD}%arguments\nname=1\n%post\n{body}\n", values="a: {x: 1}\n")
    assert (error.line, error.column) == (line, column)


def test_an_undefined_name_proposes_nested_ones_too() -> None:
    error = refused(HEAD + "%post\n{{ os.versoin }}\n", values="os: {version: 1}\n")
    assert "Did you mean version?" in error.remedy


# ── hostile templates ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        "{{ a.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ a['__class__'] }}",
        "{{ a|attr('__class__') }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ self._TemplateReference__context }}",
        "{{ range.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ lipsum() }}",
        "{{ [1, 2]|random }}",
        "{{ [1]|map('upper') }}",
        "{{ range }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{% from '/etc/passwd' import x %}",
        "{{ l.append(1) }}",
        "{% for i in range(100001) %}{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ 'a'|center(9999999999) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 50_000,
        "{{ " + "[" * 500 + "]" * 500 + " }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        "{{ " + "9" * 5000 + " }}",
        "{{ '" + "\\n" * 200 + "' * 1000 }}",
        "{{ '\\x00' }}",
        "{{ '\\ud800' }}",
    ],
    ids=lambda body: body[:40],
)
def test_hostile_templates_are_refused(body: str) -> None:
    assert refused(f"{HEAD}%arguments\na=1\n%post\n{body}\n", values="l: []\n").status == 3


def test_a_module_in_the_current_directory_is_not_taken() -> None:
    Path("jinja2.py").write_text("raise SystemExit(1)")
    assert filled("{{ a }}", arguments="a=1") == "1"


# ── the process ──────────────────────────────────────────────────────────────


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def appeared(pid: int) -> int:
    """The first child of a process that runs the renderer."""
    end = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < end:
        for child in children(pid):
            if b"singbuild.recipe.rendering" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.05)
    raise TimeoutError


def test_a_process_that_is_killed_is_told() -> None:
    def kill() -> None:
        os.kill(appeared(os.getpid()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    error = refused(LOOP)
    killer.join()
    assert "SIGKILL" in error.why


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_builder_ends(number: signal.Signals) -> None:
    Path("r.def").write_text(LOOP)
    code = "from singbuild.recipe.grammar import load; load('r.def')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as builder:
        child = appeared(builder.pid)
        builder.send_signal(number)
        builder.wait(timeout=10 * PATIENCE)
    wait_until(lambda: not Path(f"/proc/{child}").exists())


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere"])
def test_a_broken_python_is_the_hosts_fault(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(HostError):
        loaded(LOOP)
