"""Python distributions: every *.dist-info and *.egg-info, wherever it lies in the tree."""

from __future__ import annotations

from singbuild.packages.package import Package, Software, Stanza, Tree, line, read, stanzas

_ENDINGS = (b".dist-info", b".egg-info")
_LICENCE = "License :: "


def software(tree: Tree) -> Software:
    """Return the distributions of all Python installations and virtual environments."""
    paths = [
        path
        for directory, names in tree.walk()
        for name, inner in names
        if name.endswith(_ENDINGS)
        and (path := _metadata(directory + b"/" + name if directory else name, directory=inner))
    ]
    some = (_package(path, read(tree, path) or b"") for path in sorted(paths))
    return Software(tuple(package for package in some if package.name))


def _metadata(path: bytes, *, directory: bool) -> bytes:
    """Return the file with the metadata of a distribution; b"" when the path is none."""
    if directory and path.endswith(b".dist-info"):
        return path + b"/METADATA"
    if path.endswith(b".egg-info"):
        return path + b"/PKG-INFO" if directory else path
    return b""


def _package(path: bytes, data: bytes) -> Package:
    # The description follows an empty line; core metadata before it are headers.
    header = data.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    stanza = next(stanzas(header), {})
    database = line(path.decode(errors="backslashreplace"))
    return Package(
        "pypi",
        line(stanza.get("Name", "")),
        line(stanza.get("Version", "")),
        supplier=line(stanza.get("Author") or stanza.get("Author-email") or ""),
        licence=_licence(stanza, header),
        homepage=line(stanza.get("Home-page", "")),
        database=database,
    )


def _licence(stanza: Stanza, header: bytes) -> str:
    """Return the expression, else the short text, else what a classifier says."""
    text = stanza.get("License-Expression") or stanza.get("License", "")
    # UNKNOWN is what distutils wrote for nothing.
    if text and "\n" not in text and text != "UNKNOWN":
        return line(text)
    for each in header.decode(errors="replace").splitlines():
        if each.startswith(f"Classifier: {_LICENCE}"):
            return line(each.rpartition(" :: ")[2])
    return line(text) if text != "UNKNOWN" else ""
