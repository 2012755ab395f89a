"""What a recipe's text means: header, sections, lines, places."""

import re
import subprocess
from pathlib import Path

import pytest

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import CopyItem, Recipe, parse
from singbuild.recipe.text import Text
from singbuild.tree import shell_state

HEAD = "Bootstrap: busybox\n"


def recipe(text: str) -> Recipe:
    return parse(Text("r.def", text))


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    return caught.value


def values(text: str) -> dict[str, str]:
    return {header.name: header.value for header in recipe(text).headers}


def write(folder: Path, data: bytes) -> str:
    path = folder / "r.def"
    path.write_bytes(data)
    return str(path)


# ── header ───────────────────────────────────────────────────────────────────


def test_keys_match_in_any_case_and_keep_their_spelling() -> None:
    parsed_recipe = recipe("  BootStrap :\tdebootstrap  \nOSVERSION: stable\n")
    assert parsed_recipe.bootstrap == "debootstrap"
    header = parsed_recipe.header("osversion")
    assert header is not None
    assert (header.name, header.value, header.line) == ("OSVERSION", "stable", 2)
    assert parsed_recipe.header("MirrorURL") is None


def test_key_and_value_know_their_columns() -> None:
    header = recipe("Bootstrap: x\n  From:   debian\n").header("from")
    assert header is not None
    assert (header.column, header.value_column) == (3, 11)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("http://x/y#part", "http://x/y#part"),
        ("http://x/y # the mirror", "http://x/y"),
        ("http://x/y\t#the mirror", "http://x/y"),
        ('"quoted"', '"quoted"'),
        ("a:b", "a:b"),
        ("vim \\\n  less", "vim less"),
        ("vim\\\nless\\\n nano", "vim less nano"),
        ("vim \\\n# not now: nano \\\n  less", "vim less"),
        ("vim # not: \\\nFrom: y", "vim"),
        ("vim \\\n  nano:amd64", "vim nano:amd64"),
        ("vim \\\nnano:amd64", "vim nano:amd64"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert values(f"Bootstrap: x\nKey: {text}\n")["Key"] == value


def test_include_is_collected_with_its_lines() -> None:
    header = recipe("Bootstrap: x\nInclude: a b\nOSVersion: y\ninclude: c\n").header("Include")
    assert header is not None
    assert header.value == "a b c"
    assert header.lines == (2, 4)


def test_unknown_keys_are_located_and_propose_the_nearest() -> None:
    parsed_recipe = recipe("Bootstrap: busybox\n  MirorURL: x\n")
    error = parsed_recipe.unknown(parsed_recipe.headers[1], ["MirrorURL", "SHA256"])
    assert str(error) == (
        "r.def:2:3: busybox has no key MirorURL\n"
        "     2 |   MirorURL: x\n"
        "       |   ^\n"
        "It knows: MirrorURL, SHA256.\n"
        "Did you mean MirrorURL?"
    )


def test_an_error_of_a_header_points_at_its_value() -> None:
    parsed_recipe = recipe("Bootstrap: busibox\n")
    assert parsed_recipe.error(parsed_recipe.headers[0], "no such backend").column == 12


# ── sections ─────────────────────────────────────────────────────────────────


def test_sections_in_any_case_and_appended() -> None:
    parsed_recipe = recipe(HEAD + "%POST\n one\n%help\nhi\n%Post\n two\n")
    assert parsed_recipe.sections["post"].body() == " one\n two\n"
    assert parsed_recipe.sections["post"].line == 2
    assert set(parsed_recipe.sections) == {"post", "help"}


def test_script_lines_are_recipe_lines() -> None:
    text = HEAD + "# comment\n%post\none\n%help\nhi\n%post\ntwo\n\nthree\n"
    section = recipe(text).sections["post"]
    script = section.script().split("\n")
    assert [script[n - 1] for n in (4, 8, 10)] == ["one", "two", "three"]
    assert [section.recipe_line(n) for n in (0, 3, 4, 8, 11)] == [0, 0, 4, 8, 0]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_reports_the_recipes_line(shell: str, tmp_path: Path) -> None:
    text = HEAD + "%help\nx\n%post\ntrue\n no-such-program\n"
    script = tmp_path / "script"
    script.write_text(recipe(text).sections["post"].script())
    done = subprocess.run([shell, "script"], capture_output=True, text=True, cwd=tmp_path)
    assert re.match(r"script: (line )?6: no-such-program: ", done.stderr)


@pytest.mark.parametrize(
    ("line", "interpreter", "options"),
    [
        ("%post", "", ()),
        ("%post -u", "", ("-u",)),
        ("%post -c /bin/bash", "/bin/bash", ()),
        ("%post -u -c '/bin/my sh' -o pipefail # note", "/bin/my sh", ("-u", "-o", "pipefail")),
        ("%post -euo pipefail", "", ("-euo", "pipefail")),
        ("%post\n\n  #!/usr/bin/env python3 ", "/usr/bin/env python3", ()),
        ("%post -c /bin/bash\n#!/bin/sh", "/bin/bash", ()),
        ("%post\ntrue\n#!/bin/sh", "", ()),
        ("%post -c /bin/busybox sh -u", "/bin/busybox sh", ("-u",)),
        ("%post -c /usr/bin/env bash", "/usr/bin/env bash", ()),
    ],
)
def test_interpreters(line: str, interpreter: str, options: tuple[str, ...]) -> None:
    section = recipe(HEAD + line + "\n").sections["post"]
    assert section.interpreter == interpreter
    assert section.shell_options == options


@pytest.mark.parametrize(
    ("line", "program", "is_shell"),
    [
        ("%post", "sh", True),
        ("%post\n#!/usr/bin/env bash", "bash", True),
        ("%post\n#!/usr/bin/env -S bash -x", "bash", True),
        ("%post\n#!/usr/bin/env LANG=C zsh", "zsh", True),
        ("%post -c '/usr/bin/env bash'", "bash", True),
        ("%post -c /bin/busybox sh", "sh", True),
        ("%post\n#!/bin/bash -x", "bash", True),
        ("%post\n#!/usr/bin/env python3", "python3", False),
        ("%post\n#!/usr/bin/env", "env", False),
    ],
)
def test_the_program_that_reads_a_script(line: str, program: str, is_shell: bool) -> None:
    section = recipe(HEAD + line + "\n").sections["post"]
    assert (section.program, section.is_shell) == (program, is_shell)


@pytest.mark.parametrize("first", ["", "#!/bin/bash\n", "#!/usr/bin/env bash\n"])
def test_a_test_in_the_image_stops_at_the_first_failing_command(first: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    text = recipe(f"{HEAD}%test\n{first}false\necho on\n").sections["test"].executable("-e")
    program.write_text(text)
    program.chmod(0o755)
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("%runscript\necho $-", "no u\n"),
        ("%runscript -u\necho $-", "u\n"),
        ("%runscript -u -f\necho $-", "u f\n"),
        ("%runscript -c /bin/bash\necho ${BASH_VERSION:+bash}", "bash\n"),
        ("%runscript\n\n   #!/bin/cat\ntext", "#!/bin/cat\ntext\n"),
    ],
)
def test_executables_run(line: str, output: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(recipe(HEAD + line + "\n").sections["runscript"].executable())
    program.chmod(0o755)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    flags = {"u": "u" in printed, "f": "f" in printed}
    match output:
        case "no u\n":
            assert not flags["u"]
        case "u\n" | "u f\n":
            assert all(flags[letter] for letter in output.split())
        case _:
            assert printed == output


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("%%post", "%post"),
        ("%%%x", "%%x"),
        ("% done", "% done"),
        ("%1", "%1"),
        ("%", "%"),
        (" %post", " %post"),
    ],
)
def test_text_that_begins_with_a_percent_sign(text: str, meant: str) -> None:
    section = recipe(f"{HEAD}%post\n{text}\nend\n").sections["post"]
    assert section.body() == f"{meant}\nend\n"


def test_percent_d_in_a_here_document_says_how_to_write_it() -> None:
    error = refused(HEAD + "%post\ncat <<E\n%d\nE\n")
    assert error.line == 4
    assert "%%d" in error.remedy


@pytest.mark.parametrize("word", ["<<END", "<<-END", "<< 'END'", '<<"END"', "<<\\END"])
def test_a_section_name_in_a_here_document(word: str) -> None:
    error = refused(f"{HEAD}%post\ncat {word}\n%labels\n\tEND\n")
    assert error.line == 4
    assert "<<END in line 3 ends in line 5" in error.why


@pytest.mark.parametrize(
    "body",
    [
        "cat <<END\nx\nEND\n%help\nEND",
        "x=$((1<<END))\n%help\nx",
        "# cat <<END\n%help\nEND",
        "read x <<<END\n%help\nEND",
        "x=$((1<<END))\n%test\ncat <<END\nEND",
    ],
)
def test_what_only_looks_like_an_open_here_document(body: str) -> None:
    assert len(recipe(f"{HEAD}%post\n{body}\n").sections) == 2


def test_environment_is_verbatim() -> None:
    body = "  export A='1'\t\n\n# note\n"
    assert recipe(f"{HEAD}%environment\n{body}").sections["environment"].body() == body


def test_nothing_is_lost_of_a_last_line_without_end() -> None:
    assert recipe(HEAD + "%post\ntrue").sections["post"].body() == "true\n"


def test_apps_have_sections_of_their_own() -> None:
    parsed_recipe = recipe(
        f"{HEAD}%runscript\nmain\n%apprun foo\necho foo\n%appfiles foo\na.txt\nb /etc/b\n"
        "%APPLABELS  foo # note\nV 1\n%appinstall bar-2\nmake\n%apprun foo\nmore\n%files\nc\n"
    )
    assert set(parsed_recipe.sections) == {"runscript", "files"}
    assert [app.name for app in parsed_recipe.apps] == ["foo", "bar-2"]
    assert parsed_recipe.apps[0].sections["run"].body() == "echo foo\nmore\n"
    assert [tuple(label) for label in parsed_recipe.apps[0].labels] == [("V", "1", 10)]
    assert [(item.source, item.destination) for item in parsed_recipe.files] == [
        ("a.txt", "/scif/apps/foo/a.txt"),
        ("b", "/scif/apps/foo//etc/b"),
        ("c", ""),
    ]
    assert parsed_recipe.labels == ()


@pytest.mark.parametrize("line", ["%apprun", "%apprun ../x", "%apprun a/b", "%appenv .x"])
def test_an_app_needs_a_name_that_is_no_path(line: str) -> None:
    assert "needs the name of an app" in refused(f"{HEAD}{line}\n").what


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("%runscript\n echo\n% post\n apk add vim\n", ["r.def:4"]),
        ("%runscript\n echo\n  %environment\n A=1\n", ["r.def:4"]),
        ("%help\n  %Labels \n", ["r.def:3"]),
        ("%post\n cat <<END\n  %environment\nEND\n %labels\n", ["r.def:6"]),
        ("%post\n cat > f <<END\n  %environment\n", []),  # sh takes the rest for its text
        ("%post\n date +%d\n  %d\n %environments\n echo %post\n", []),
    ],
)
def test_what_looks_like_a_section_and_is_none_is_told_of(text: str, printed: list[str]) -> None:
    warnings = recipe(HEAD + text).warnings
    assert [each.split(": this is text of %")[0] for each in warnings] == printed


# ── %files, %labels ──────────────────────────────────────────────────────────


def test_files() -> None:
    text = '%files\n\n# no\n a.txt\n \'b c\' /d\\ e # why\n "f\\"g" "#h"\n*.py /src/\n%%x\n'
    assert recipe(HEAD + text).files == (
        CopyItem("a.txt", "", 5),
        CopyItem("b c", "/d e", 6),
        CopyItem('f"g', "#h", 7),
        CopyItem("*.py", "/src/", 8),
        CopyItem("%x", "", 9),
    )


def test_labels() -> None:
    text = "%labels\n# no\n\nMaintainer  Ada Lovelace \nV\t\"1 2\"\nQ 'a' 'b'\nH #1\nE=1 2\n"
    assert [tuple(label) for label in recipe(HEAD + text).labels] == [
        ("Maintainer", "Ada Lovelace", 5),
        ("V", "1 2", 6),
        ("Q", "'a' 'b'", 7),
        ("H", "#1", 8),
        ("E=1", "2", 9),
    ]

    assert not recipe(HEAD + text).warnings


def test_labels_without_value_or_given_twice() -> None:
    parsed_recipe = recipe(HEAD + '%labels\nA\nB 1\nC="x"\nB 2\n')
    assert [tuple(label) for label in parsed_recipe.labels] == [
        ("A", "", 3),
        ('C="x"', "", 5),
        ("B", "2", 6),
    ]
    assert parsed_recipe.warnings == (
        "r.def:3: the label A has no value: it is stored empty",
        'r.def:5: the label C="x" has no value: write C "x"',
        "r.def:6: the label B replaces that of line 4",
    )


# ── bytes ────────────────────────────────────────────────────────────────────


def test_a_long_line_is_cut_in_the_error() -> None:
    assert len(str(refused(HEAD + "x" * 100_000))) < 1000


def test_the_value_is_frozen() -> None:
    parsed_recipe = recipe(HEAD + "%post\n")
    with pytest.raises(AttributeError):
        parsed_recipe.path = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        parsed_recipe.sections["post"] = parsed_recipe.sections["post"]  # type: ignore[index]


def test_a_line_ends_where_an_editor_ends_it() -> None:
    """str.splitlines() would end one at each of these."""
    odd = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"
    parsed_recipe = recipe(f"{HEAD}%post\n{odd}\nlast\n")
    assert [parsed_recipe.line(number) for number in (3, 4)] == [odd, "last"]
    post = parsed_recipe.sections["post"]
    assert shell_state.script(post, is_last=True).endswith(f"\n{odd}\nlast\n")
