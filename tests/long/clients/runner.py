"""Types lines.txt to whatever apptainer is on the PATH: runner.py LINES TEMPLATE RESULT.

Runs in another Debian, with its Python and nothing of ours. Each line finds the template's files,
and none that an earlier line has made.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PATIENCE = 60.0  # seconds for a line, times SINGBUILD_TEST_PATIENCE


def lines(text: str) -> "list[tuple[str, str]]":
    """Return each line and the reason why its outcomes may differ, "" for none."""
    findings = []
    for line in text.splitlines():
        command, _, reason = line.partition("#!")
        if command.strip() and not command.startswith("#"):
            findings.append((command.strip(), reason.strip()))
    return findings


def outcome(command: str, place: Path) -> "dict[str, object]":
    """Type a line; return its status, what it printed, and the files that it made or removed."""
    before = names(place)
    seconds = PATIENCE * float(os.environ.get("SINGBUILD_TEST_PATIENCE", "1"))
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env={k: v for k, v in os.environ.items() if not k.startswith("SINGBUILD_")},
        )
        status, out, err = str(done.returncode), done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        status, out, err = "timeout", late.stdout or b"", late.stderr or b""
    after = names(place)
    # An overlay's work directory has no permissions at all.
    remains = [str(place / name) for name in sorted(after - before)]
    for words in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*words, "--", *remains], check=False, capture_output=True)
    return {
        "status": status,
        "stdout": out.decode(errors="replace"),
        "made": sorted(after - before),
        "gone": sorted(before - after),
        "stderr": err.decode(errors="replace"),
    }


def names(place: Path) -> "set[str]":
    """Return all files below the directory, but those of sandboxes that are made in it."""
    return {str(path.relative_to(place)) for path in place.rglob("*") if "x/" not in str(path)}


def main() -> None:
    """Type all lines."""
    text, template, result = (Path(word) for word in sys.argv[1:])
    place = Path.home() / "w"
    shutil.copytree(template, place, symlinks=True)
    findings = {command: outcome(command, place) for command, _ in lines(text.read_text())}
    result.write_text(json.dumps(findings))


if __name__ == "__main__":
    main()
