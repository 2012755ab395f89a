"""Makes packages of singbuild for this host's distribution: packages.py deb|rpm DIRECTORY.

Three packages. ``singrun``: the runtime, for nodes, with no library. ``singbuild``: the builder,
in a virtual environment of its own in /usr/lib/singbuild with the Python libraries that it needs,
for no distribution has all of them as new as pyproject.toml asks for; so it goes with the one minor
version of Python that it was made by. ``singbuild-singularity``: the commands singularity,
apptainer and run-singularity, which only one package of a host can have.

Runs on the distribution that the packages are for; needs pip's index, and dpkg-deb or rpmbuild.
Imports the standard library only.
"""

from __future__ import annotations

import compileall
import gzip
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
NEXT = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
VERSION = re.findall(r'__version__ = "(.*)"', (ROOT / "singbuild/__init__.py").read_text())[0]
# The launcher looks for its package beside a checkout first: here is where the packages have it.
LAUNCHER = ("main=$here/../singrun/__main__.py", "main=/usr/lib/singrun/singrun/__main__.py")


@dataclass(frozen=True)
class Package:
    """One package. needs, suggests: by the kind of package. others: whose commands it has."""

    name: str
    summary: str
    description: str
    is_portable: bool
    needs: dict[str, str]
    suggests: dict[str, str]
    others: str = ""


PACKAGES = (
    Package(
        "singrun",
        "runs programs in images of singbuild, Singularity and Apptainer as the calling user",
        "No set-user-ID program, no daemon: it makes namespaces and becomes the program.",
        True,
        {"deb": "python3 (>= 3.9)", "rpm": "/usr/bin/python3"},
        {"deb": "fuse2fs, squashfuse, fuse-overlayfs", "rpm": "squashfuse fuse-overlayfs"},
    ),
    Package(
        "singbuild",
        "builds a whole Linux environment into one file from a recipe",
        "Builds without root, too; its Python libraries lie in /usr/lib/singbuild.",
        False,
        {
            "deb": f"singrun (= VERSION), python3 (>= {MINOR}), python3 (<< {NEXT}), e2fsprogs",
            "rpm": f"singrun = VERSION /usr/bin/python{MINOR} e2fsprogs",
        },
        {
            "deb": "uidmap, debootstrap, busybox-static, squashfs-tools-ng",
            "rpm": "shadow-utils dnf squashfs-tools-ng",
        },
    ),
    Package(
        "singbuild-singularity",
        "the commands singularity and apptainer, by singbuild and singrun",
        "Takes the command lines of Singularity 2.x and 3.x and of Apptainer.",
        True,
        {"deb": "singrun (= VERSION)", "rpm": "singrun = VERSION"},
        {"deb": "singbuild", "rpm": "singbuild"},
        "apptainer, singularity-container, singularity-ce",
    ),
)


def main() -> None:
    """Make all packages."""
    kind, target = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_date())
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="singbuild-packages-") as place:
        trees = {package.name: Path(place, package.name) for package in PACKAGES}
        stage(trees)
        for package in PACKAGES:
            tree = trees[package.name]
            document(package, tree, kind)
            set_modes(tree)
            {"deb": make_deb, "rpm": make_rpm}[kind](package, tree, target)


def commit_date() -> str:
    """Return the date of this checkout in seconds since 1970; of its newest file without git."""
    words = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        return subprocess.check_output(words, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return str(int(max(path.stat().st_mtime for path in (ROOT / "singbuild").rglob("*.py"))))


def stage(trees: dict[str, Path]) -> None:
    """Fill the trees: pip installs into an environment, and its parts go where they belong."""
    environment = trees["singbuild"] / "usr/lib/singbuild"
    subprocess.run([sys.executable, "-m", "venv", "--symlinks", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-compile", ROOT], check=True)
    subprocess.run([*pip, "uninstall", "-y", "pip", "setuptools"], check=True)
    site = environment / f"lib/python{MINOR}/site-packages"
    runtime = trees["singrun"] / "usr/lib/singrun"
    runtime.mkdir(parents=True)
    shutil.move(site / "singrun", runtime / "singrun")
    (site / "singrun").symlink_to("/usr/lib/singrun/singrun")
    commands = {path.name: path for path in (environment / "bin").iterdir()}
    text = commands["singrun"].read_text()
    assert text.count(LAUNCHER[0]) == 1
    put(trees["singrun"] / "usr/bin/singrun", text.replace(*LAUNCHER), 0o755)
    link(trees["singbuild"] / "usr/bin/singbuild", "../lib/singbuild/bin/singbuild")
    for name in ("singularity", "apptainer", "run-singularity"):
        put(trees["singbuild-singularity"] / f"usr/bin/{name}", commands[name].read_text(), 0o755)
    for name, path in commands.items():  # of libraries; and those that other packages have
        if name not in ("python", "python3", f"python{MINOR}", "singbuild"):
            path.unlink()
    for name in ("python", f"python{MINOR}"):
        (environment / "bin" / name).unlink(missing_ok=True)
        (environment / "bin" / name).symlink_to("python3")
    (environment / "bin/python3").unlink()
    (environment / "bin/python3").symlink_to(f"/usr/bin/python{MINOR}")
    (environment / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n"
        f"version = {platform.python_version()}\n"
    )
    share(environment / "share", trees)
    for path in environment.rglob("direct_url.json"):  # names the directory of this checkout
        path.unlink()
    for path in [*environment.rglob("RECORD")]:
        path.unlink()  # what pip would remove by: the package manager knows what is here
    compileall.compile_dir(
        str(environment / "lib"),
        quiet=1,
        stripdir=str(trees["singbuild"]),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    (environment / "lib64").unlink(missing_ok=True)
    shutil.rmtree(environment / "include", ignore_errors=True)


def share(source: Path, trees: dict[str, Path]) -> None:
    """Move man pages and completion to the package that has the command."""
    for path in filter(Path.is_file, source.rglob("*")):
        name = path.name.removeprefix("_").partition(".")[0]  # zsh's completion is _COMMAND
        package = {"singularity": "singbuild-singularity", "apptainer": "singbuild-singularity"}
        package |= {"singrun": "singrun"}
        target = trees[package.get(name, "singbuild")] / "usr/share" / path.relative_to(source)
        if path.parent.name.startswith("man"):
            put(target.with_name(f"{target.name}.gz"), packed(path.read_bytes()), 0o644)
        else:
            put(target, path.read_text(), 0o644)
    shutil.rmtree(source)


def document(package: Package, tree: Path, kind: str) -> None:
    """Add licence and changelog, as Debian's policy 12.5 and 12.7 have them."""
    place = tree / "usr/share/doc" / package.name
    if kind == "rpm":
        put(
            tree / f"usr/share/licenses/{package.name}/LICENSE",
            (ROOT / "LICENSE").read_text(),
            0o644,
        )
        return
    licences = (ROOT / "LICENSE").read_text()
    if package.name == "singbuild":
        licences += "\nThe libraries in /usr/lib/singbuild have licences of their own, in the\n"
        licences += "directories *.dist-info beside them.\n"
    put(place / "copyright", licences, 0o644)
    put(place / "changelog.gz", packed((ROOT / "CHANGELOG.md").read_bytes()), 0o644)


def packed(data: bytes) -> bytes:
    """Return data as gzip makes it, without a date."""
    return gzip.compress(data, 9, mtime=0)


def put(path: Path, data: str | bytes, mode: int) -> None:
    """Write a file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """Make a symbolic link, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def set_modes(tree: Path) -> None:
    """Give files the modes of a package's, and no date later than the checkout's."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


# What the runtime compiles when root first calls it, and the player where the host has a compiler;
# the package manager does not know of them.
PLAYER = "/usr/lib/singrun/singrun/recordings/player"
COMPILE = (
    "{ singrun --version >/dev/null 2>&1 || :; "
    f"{{ cc -O2 -static -o {PLAYER} {PLAYER[:-6]}*.c || cc -O2 -o {PLAYER} {PLAYER[:-6]}*.c; }} "
    f">/dev/null 2>&1 && chmod 0755 {PLAYER} || rm -f {PLAYER}; }}"
)
FORGET = (
    f"{{ rm -f {PLAYER}; find /usr/lib/singrun -depth -name __pycache__ -exec rm -rf {{}} \\;; }}"
)
# An upgrade executes %post of the new package before %preun of the old one, with 1.
RPM_SCRIPTS = ("%post", FORGET, COMPILE, "%preun", f'[ "$1" != 0 ] || {FORGET}')


def make_deb(package: Package, tree: Path, target: Path) -> None:
    """Pack a tree by dpkg-deb(1)."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    number = release.get("VERSION_ID", "sid").strip('"')
    version = f"{VERSION}-1~{release['ID']}{number}"
    arch = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    arch = "all" if package.is_portable else arch
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file()) // 1024 + 1
    fields = {
        "Package": package.name,
        "Version": version,
        "Architecture": arch,
        "Maintainer": "The developers of singbuild <root@localhost>",
        "Section": "utils",
        "Priority": "optional",
        "Installed-Size": str(size),
        "Depends": package.needs["deb"].replace("VERSION", version),
        "Recommends": package.suggests["deb"],
        "Conflicts": package.others,
        "Description": f"{package.summary}\n {package.description}",
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    put(tree / "DEBIAN/control", text, 0o644)
    if package.name == "singrun":
        put(
            tree / "DEBIAN/postinst",
            f'#!/bin/sh\nset -e\n[ "$1" != configure ] || {COMPILE}\n',
            0o755,
        )
        put(tree / "DEBIAN/prerm", f"#!/bin/sh\nset -e\n{FORGET}\n", 0o755)
    words = ["dpkg-deb", "--root-owner-group", "--build", tree, target]
    subprocess.run([*words], check=True)


def make_rpm(package: Package, tree: Path, target: Path) -> None:
    """Pack a tree by rpmbuild(8), which gets the files as they are."""
    files = [f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*"))]
    # Directories of shells that a host may lack: packages own them together.
    places = ("/usr/lib/sing", "/usr/share/licenses", "/usr/share/zsh", "/usr/share/fish")
    own = [path for path in files if path.startswith(places)]
    listing = [
        f'%dir "{path}"'
        if (tree / path[1:]).is_dir() and not (tree / path[1:]).is_symlink()
        else f'"{path}"'
        for path in files
        if path in own or not (tree / path[1:]).is_dir()
    ]
    requires = package.needs["rpm"].replace("VERSION", VERSION)
    spec = [
        f"Name: {package.name}",
        f"Version: {VERSION}",
        "Release: 1",
        f"Summary: {package.summary}",
        "License: BSD-3-Clause",
        *(["BuildArch: noarch"] if package.is_portable else []),
        "AutoReqProv: no",
        f"Requires: {requires}",
        f"Recommends: {package.suggests['rpm']}",
        *([f"Conflicts: {package.others}"] if package.others else []),
        "%global __os_install_post %{nil}",  # neither strip nor compile: the tree is as it shall be
        "%global debug_package %{nil}",
        "%description",
        package.description,
        "%install",
        f"cp -a {tree}/. %{{buildroot}}",
        *(RPM_SCRIPTS if package.name == "singrun" else []),
        "%files",
        "%defattr(-,root,root)",
        *listing,
    ]
    with tempfile.TemporaryDirectory(prefix="singbuild-rpm-") as place:
        file = Path(place, "package.spec")
        file.write_text("\n".join(spec) + "\n")
        words = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {place}"]
        words += [
            "--define",
            f"_rpmdir {target.absolute()}",
            "--define",
            "_rpmfilename %%{NAME}-%%{VERSION}.%%{ARCH}.rpm",
        ]
        words += [
            "--define",
            "use_source_date_epoch_as_buildtime 1",
            "--define",
            "_buildhost localhost",
        ]
        subprocess.run([*words, file], check=True)


if __name__ == "__main__":
    main()
