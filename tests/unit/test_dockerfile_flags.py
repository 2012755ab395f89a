"""What the flags of RUN, COPY and ADD mean."""

from __future__ import annotations

import pytest

from singbuild.dockerfile import files
from singbuild.dockerfile.actions import Copy, Run
from tests.unit.test_dockerfile import evaluated, refused, run


def test_targets_of_mounts_begin_at_the_working_directory() -> None:
    text = (
        "WORKDIR /app\nRUN --mount=source=uv.lock,target=uv.lock --mount=target=."
        " --mount=type=cache,target=/c/ true\n"
    )
    action = evaluated(text).actions[-1]
    assert isinstance(action, Run)
    assert [each.fields["target"] for each in action.mounts] == ["/app/uv.lock", "/app", "/c"]


def test_a_program_may_be_kept_from_networks() -> None:
    assert run("RUN --network=none true\n").is_offline
    assert not run("RUN --network=default true\n").is_offline


def test_a_checksum_may_be_in_a_variable() -> None:
    text = f"ARG S={'ab' * 32}\nADD --checksum=sha256:$S https://x/y /z\n"
    (action,) = evaluated(text).actions
    assert isinstance(action, Copy)
    assert action.checksum == f"sha256:{'ab' * 32}"


@pytest.mark.parametrize("words", ["", "$S", "sha256:$S", "sha256:ab", "sha512:" + "a" * 64])
def test_a_checksum_that_checks_nothing_is_refused(words: str) -> None:
    assert "is no checksum" in refused(f"ADD --checksum={words} http://x/y /z\n")


@pytest.mark.parametrize(
    ("words", "file", "folder"),
    [
        ("0751", 0o751, 0o751),
        ("u=rwX,go=rX", 0o644, 0o755),
        ("+x", 0o751, 0o711),
        ("a-w,u+s,g+s", 0o6440, 0o6511),
        ("go=,+t", 0o1600, 0o1700),
        ("o+r", 0o644, 0o715),
    ],
)
def test_modes_are_octal_or_as_chmod_has_them(words: str, file: int, folder: int) -> None:
    assert files.is_mode(words)
    assert files.changed_mode(0o640, words, is_directory=False) == file
    assert files.changed_mode(0o711, words, is_directory=True) == folder
    assert not any(map(files.is_mode, ("u", "8", "77777", "u=rwq", "755,u+x", "")))
