"""--device: what vendors describe by the Container Device Interface."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def cdi(bench: Bench) -> Path:
    """Two directories of descriptions, of which the second has priority; a device node."""
    place = bench.directory / "cdi"
    if place.exists():
        return place
    for name in ("etc", "run"):
        (place / name).mkdir(parents=True)
    os.mknod(place / "node0", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    (place / "node0").chmod(0o666)
    (place / "lib.so").write_text("a library\n")
    (place / "lib.so").chmod(0o666)
    mount = {"hostPath": f"{place}/lib.so", "containerPath": "/opt/lib.so", "options": ["ro"]}
    hook = {"hookName": "createContainer", "path": "/usr/bin/hook", "args": ["hook", "update"]}
    description = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.example/gpu",
        "containerEdits": {"env": ["VENDOR=general", "BOTH=general"], "mounts": [mount]},
        "devices": [
            {
                "name": "0",
                "containerEdits": {
                    "deviceNodes": [{"path": "/vendor0", "hostPath": f"{place}/node0"}],
                    "env": ["BOTH=device"],
                },
            },
            {"name": "hooked", "containerEdits": {"hooks": [hook]}},
            {"name": "broken", "containerEdits": {"mounts": [{"hostPath": 7}]}},
            {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/no/such"}]}},
        ],
    }
    (place / "etc/vendor.json").write_text(json.dumps(description))
    (place / "etc/other.yaml").write_text("cdiVersion: 0.6.0\nkind: other.example/gpu\n")
    entry_over = {"cdiVersion": "0.6.0", "kind": "vendor.example/net", "devices": [{"name": "n"}]}
    (place / "run/net.json").write_text(json.dumps(entry_over))
    return place


def options(cdi: Path, *names: str) -> list[str]:
    result = ["--cdi-dirs", f"{cdi}/etc,{cdi}/run"]
    for name in names:
        result += ["--device", name]
    return result


def test_nodes_mounts_and_variables_of_a_device_come_in(
    person: Person, bench: Bench, cdi: Path
) -> None:
    words = options(cdi, "vendor.example/gpu=0", "vendor.example/net=n")
    script = "head -c1 /vendor0 | wc -c; cat /opt/lib.so; echo $VENDOR $BOTH; echo >>/opt/lib.so"
    done = person.singrun("exec", *words, bench.image, "sh", "-c", script)
    assert done.stdout.decode() == "1\na library\ngeneral device\n"
    assert b"Read-only file system" in done.stderr
    words = ["--env", "BOTH=mine", *options(cdi, "vendor.example/gpu=0")]
    assert person.output("exec", *words, bench.image, "sh", "-c", "echo $BOTH") == "mine\n"


def test_hooks_are_left_out_with_a_warning(person: Person, bench: Bench, cdi: Path) -> None:
    words = options(cdi, "vendor.example/gpu=hooked")
    done = person.singrun("exec", *words, bench.image, "cat", "/opt/lib.so")
    assert (done.returncode, done.stdout) == (0, b"a library\n")
    assert b"Left out, of --device vendor.example/gpu=hooked: the hook /usr/bin/hook update" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("vendor.example/gpu=9", "vendor.example/gpu=0"),
        ("other.example/gpu=0", "other.yaml"),
        ("vendor.example/gpu=broken", "Cannot understand vendor.example/gpu=broken in"),
        ("vendor.example/gpu=gone", "There is no /no/such"),
    ],
)
def test_devices_that_cannot_be_had(bench: Bench, cdi: Path, name: str, needle: str) -> None:
    user = bench.people["user"]
    done = user.singrun("exec", *options(cdi, name), bench.tree, "true")
    assert (done.returncode, needle in done.stderr.decode()) == (255, True), done
    assert b"Traceback" not in done.stderr
    done = user.singrun("exec", "--device", name, bench.tree, "true")
    assert b"/etc/cdi and /var/run/cdi have" in done.stderr
