"""Several downloads at once, and builds that share a store."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from singbuild.download import NotFoundError, Remote, fetch, fetch_all, segments
from singbuild.errors import HostError, SourceError, UsageError
from singbuild.testing.engine import Recorder
from tests.bench.host import wait_until
from tests.unit.test_download import (
    BODY,
    SHA256,
    Handler,
    Server,
    _hurried,
    names,
    report,
    server,
    status,
    the_rest,
    whole,
)

__all__ = ["_hurried", "report", "server"]


def test_many_files_come_in_order_under_one_bar(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    pieces = [BODY[i : i + 50_000] for i in range(0, len(BODY), 50_000)]
    places = {f"/{i}": piece for i, piece in enumerate(pieces)}
    server.behaviours = [lambda handler: handler.answer(200, places[handler.path])]
    base = server.url.removesuffix("/dir/file.bin")
    remotes = [
        Remote(base + path, hashlib.sha256(piece).hexdigest(), len(piece))
        for path, piece in places.items()
    ]
    answer = fetch_all(remotes, tmp_path, report=report, label="Packages")
    assert [file.path.read_bytes() for file in answer] == pieces
    assert report.steps[-1] == ("Packages", len(BODY), len(BODY))
    assert [done for _, done, _ in report.steps] == sorted(done for _, done, _ in report.steps)
    fetch_all(remotes, tmp_path, report=report, label="Packages")
    assert len(server.requests) == len(pieces)


def test_one_of_many_that_fails_ends_all(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [lambda h: (whole if h.path == "/dir/file.bin" else status(404))(h)]
    remotes = [Remote(server.url, SHA256, len(BODY))] + [
        Remote(f"{server.url}{i}", f"{i:064}", 1) for i in range(100)
    ]
    with pytest.raises(NotFoundError):
        fetch_all(remotes, tmp_path, report=report, label="Packages")
    time.sleep(0.3)
    assert len(server.requests) < 50


def test_two_builds_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    reports = [Recorder(), Recorder()]

    def when_the_other_waits(handler: Handler) -> None:
        waits = "waiting for another build"
        wait_until(lambda: any(waits in line for r in reports for line in r.lines))
        whole(handler)

    server.behaviours = [when_the_other_waits]
    threads = [
        threading.Thread(
            target=fetch, args=(server.url, tmp_path), kwargs={"report": r, "sha256": SHA256}
        )
        for r in reports
    ]
    threads[0].start()
    while not server.requests:
        time.sleep(0.01)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert names(tmp_path) == {SHA256}


def test_a_killed_build_leaves_nothing_under_the_final_name(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    def stalls(handler: Handler) -> None:
        handler.answer(200, BODY[:200_000], Content_Length=str(len(BODY)), ETag='"one"')
        handler.wfile.flush()
        time.sleep(30)

    server.behaviours = [stalls, the_rest]
    code = f"""
from pathlib import Path
from singbuild.errors import HostError, SourceError, UsageError
from singbuild.download import fetch
class Report:
    line = warn = progress = lambda *a: None
fetch({server.url!r}, Path({str(tmp_path)!r}), report=Report(), sha256={SHA256!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / f"{SHA256}.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
    process.kill()
    process.wait()
    assert names(tmp_path) == {part.name, f"{part.name}.owner1"}
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY
    assert "range" in server.requests[1]
    assert names(tmp_path) == {SHA256}


def test_a_store_that_cannot_be_made_is_the_hosts_fault(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    (tmp_path / "store").write_text("a file is in the way")
    with pytest.raises(HostError, match="cannot be written"):
        fetch(server.url, tmp_path / "store", report=report)


def test_retries_are_settable(
    server: Server, tmp_path: Path, report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours = [status(503)]
    monkeypatch.setenv("SINGBUILD_RETRIES", "1")
    with pytest.raises(SourceError):
        fetch(server.url, tmp_path, report=report)
    assert len(server.requests) == 2
    monkeypatch.setenv("SINGBUILD_RETRIES", "many")
    with pytest.raises(UsageError, match="SINGBUILD_RETRIES is 'many'"):
        fetch(server.url, tmp_path, report=report)


def test_the_bandwidth_is_settable_and_holds_for_all_together(
    server: Server, tmp_path: Path, report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours = [whole]
    monkeypatch.setenv("SINGBUILD_BANDWIDTH", f"{len(BODY)}B/s")
    began = time.monotonic()
    remotes = [Remote(f"{server.url}?{n}", "", len(BODY)) for n in range(2)]
    fetch_all(remotes, tmp_path, report=report, label="Two")
    assert time.monotonic() - began > 1.9
    monkeypatch.setenv("SINGBUILD_BANDWIDTH", "fast")
    with pytest.raises(UsageError, match="SINGBUILD_BANDWIDTH is 'fast'"):
        fetch(f"{server.url}?3", tmp_path, report=report)


def ranges(handler: Handler) -> None:
    """Answer as a server does that sends whatever part it is asked for."""
    byte_range = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=")
    begin, _, last = byte_range.partition("-")
    end = int(last) + 1 if last else len(BODY)
    place = f"bytes {begin}-{end - 1}/{len(BODY)}"
    more = {"Accept_Ranges": "bytes", "ETag": '"one"'}
    if "Range" in handler.headers:
        handler.answer(206, BODY[int(begin) : end], Content_Range=place, **more)
    else:
        handler.answer(200, BODY, **more)


@pytest.fixture
def slow_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every connection for a slow one, and a small file for a large one."""
    monkeypatch.setattr(segments, "SEGMENT", 1 << 15)
    monkeypatch.setattr(segments, "LEAST", 1 << 16)
    monkeypatch.setattr(segments, "FAST", 1 << 60)


@pytest.mark.usefixtures("slow_lines")
def test_a_slow_line_is_helped_by_others(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [ranges]
    answer = fetch(server.url, tmp_path, report=report, sha256=SHA256)
    assert answer.path.read_bytes() == BODY
    assert names(tmp_path) == {SHA256}
    parts = [each["range"] for each in server.requests if "range" in each]
    assert len(parts) > 5, parts
    assert all(each.get("if-range") == '"one"' for each in server.requests if "range" in each)
    assert report.steps[-1][1:] == (len(BODY), len(BODY))


@pytest.mark.usefixtures("slow_lines")
def test_a_server_without_parts_after_all_sends_the_rest(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    def refuses(handler: Handler) -> None:
        """Send the whole and the rest of it, and nothing between."""
        byte_range = handler.headers.get("Range", "")
        (ranges if not byte_range or byte_range.endswith("-") else status(429))(handler)

    server.behaviours = [refuses]
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY
    assert "does not send it in parts" in "\n".join(report.lines)


@pytest.mark.usefixtures("slow_lines")
def test_parts_of_another_file_are_refused_by_the_digest(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    def lies(handler: Handler) -> None:
        byte_range = handler.headers.get("Range", "")
        if byte_range and not byte_range.endswith("-"):
            begin, last = map(int, byte_range.removeprefix("bytes=").split("-"))
            place = f"bytes {begin}-{last}/{len(BODY)}"
            handler.answer(206, bytes(last + 1 - begin), Content_Range=place, ETag='"one"')
        else:
            ranges(handler)

    server.behaviours = [lies]
    with pytest.raises(SourceError, match="wrong SHA-256"):
        fetch(server.url, tmp_path, report=report, sha256=SHA256)
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("slow_lines")
def test_a_part_that_breaks_off_is_asked_for_again(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    broken: list[str] = []

    def breaks_once(handler: Handler) -> None:
        byte_range = handler.headers.get("Range", "")
        if byte_range and not broken:
            broken.append(byte_range)
            begin, last = byte_range.removeprefix("bytes=").split("-")
            place, length = f"bytes {begin}-{last}/{len(BODY)}", str(int(last) + 1 - int(begin))
            handler.answer(206, b"x" * 9, Content_Range=place, Content_Length=length, ETag='"one"')
            handler.close_connection = True
        else:
            ranges(handler)

    server.behaviours = [breaks_once]
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY
    assert broken
