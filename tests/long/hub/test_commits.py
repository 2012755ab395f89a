"""Twenty commits over eight recipes of all kinds: what changed is built, counted, and no more."""

from __future__ import annotations

import filecmp
import json
import subprocess
from pathlib import Path

import pytest

from tests.bench.host import random_numbers
from tests.host.hub.test_hub import BUILT, BUSYBOX, FILES, Hub

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("twenty commits")]

COMMITS = 20
STAGES = (
    f"{BUSYBOX}Stage: one\n%post\n  echo {{}} > /one\n\n{BUSYBOX}%files from one\n  /one /two\n"
)
# What a commit changes, {} being its number, and the tags that are built anew.
CHANGES: list[tuple[str, str, set[str]]] = [
    ("README.md", "number {}\n", set()),
    ("tools/unused.txt", "number {}\n", set()),
    ("tools/data.txt", "number {}\n", {"copy", "latest-docker"}),
    ("Singularity", f"{BUSYBOX}%runscript\n  echo {{}}\n", {"latest"}),
    ("Singularity.base", f"{BUSYBOX}%post\n  echo {{}} > /etc/base\n", {"base", "child"}),
    ("Singularity.child", "Bootstrap: localimage\nFrom: base.sif\n%help\n  {}\n", {"child"}),
    ("stages.def", STAGES, {"stages"}),
    ("app.def", f"{BUSYBOX}%apprun hello\n  echo {{}}\n", {"app"}),
    ("broken.def", f"{BUSYBOX}%post\n  echo {{}}; false\n", set()),
    ("Dockerfile", "FROM scratch\nCOPY tools/data.txt /data{}\n", {"latest-docker"}),
]


def keys(hub: Hub, site: str) -> dict[str, str]:
    return {tag: build["key"] for tag, build in hub.collection(site).items()}


def test_a_site_is_right_after_each_of_twenty_commits(tmp_path: Path) -> None:
    chance = random_numbers()
    hub = Hub(tmp_path)
    site = tmp_path / "site"
    hub.commit(FILES)
    status, output = hub.build("site", "--jobs", "2", "--url", "https://hub.invalid")
    assert (status, f"{len(BUILT)} built, 0 as before" in output) == (7, True), output
    total = len(BUILT)
    rest = [*CHANGES, *chance.sample(CHANGES, len(CHANGES))][: COMMITS - 1]
    for number, (path, text, anew) in enumerate(rest):
        before, images = keys(hub, "site"), {*site.glob("images/*.sif")}
        commit = hub.commit({path: text.replace("{}", str(number))})
        status, output = hub.build("site", "--jobs", "2")
        assert status == 7, output
        assert f"{len(anew)} built, {len(BUILT) - len(anew)} as before, 1 failed" in output
        new = {path.stem for path in {*site.glob("images/*.sif")} - images}
        after = keys(hub, "site")
        assert new == {after[tag] for tag in anew}, path
        changed = {tag for tag in after if after[tag] != before[tag]} - {"broken"}
        assert changed == anew, path
        total += len(anew)
        checked = subprocess.run(hub.command("check", str(site)), capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        page = (site / "lab/tools/index.html").read_text()
        assert commit[:12] in page
        for tag in after:
            record = json.loads((site / f"records/{after[tag]}.json").read_text())
            assert record["source"] == (hub.repository / record["path"]).read_text()
            history = (site / f"lab/tools/{tag}/history.html").read_text()
            assert (commit[:12] in history) == (tag in changed or (tag == "broken" == path[:6]))
    assert len([*site.glob("images/*.sif")]) == total
    print(f"{COMMITS} commits, {total} builds of {COMMITS * len(BUILT)}")
    # Another machine: a clone, a cache of its own, every commit in turn.
    for commit in hub.git("rev-list", "--reverse", "HEAD").split():
        options = ["--at", commit, "--url", "https://hub.invalid", "--jobs", "2"]
        hub.build("other", *options, cache="other-cache")
    one, two = (
        {path.relative_to(top): path for path in top.rglob("*") if path.is_file()}
        for top in (site, tmp_path / "other")
    )
    assert one.keys() == two.keys()
    differing = {name for name in one if not filecmp.cmp(one[name], two[name], shallow=False)}
    assert [name for name in differing if name.parts[0] != "runs" and name.name != "log.html"] == []
