"""Files by which Singularity HPC (shpc) makes modules of a site's images.

    library.json            what it asks a remote registry for: images that were pushed, by digest
    shpc/OWNER/NAME/TAG/    a registry in the file system: container.yaml, and the image beside it

Source: singularity-hpc 0.1.32, shpc/main/{schemas,registry/remote}.py.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from singbuild.hub.collection import Build, Collection
from singbuild.hub.site import Site

_LONGEST = 200  # letters of a description


def write(site: Site, subject: Collection, url: str) -> None:
    """Write the entries of a collection's newest images."""
    entries = {}
    pushed = site.load(f"{subject.name}/pushed.json").get("images", {})
    for tag, build in subject.commits[-1].builds.items():
        if build.status != "built" or not site.image(build.key).exists():
            continue
        module = f"{subject.name}/{tag}"
        version = subject.since(tag, build.key).id[:12]
        file = f"{build.key}.sif"
        digest = f"sha256:{site.record(build.key)['image']['sha256']}"
        config = _config(site, subject, tag, build, url, version, digest) | {"path": file}
        site.link_image(build.key, f"shpc/{module}/{file}")
        site.write(f"shpc/{module}/container.yaml", yaml.safe_dump(config, sort_keys=True))
        place = pushed.get(tag, {})
        if place.get("key") == build.key:
            repository = place["uri"].removeprefix("oras://").rpartition(":")[0]
            config = _config(site, subject, tag, build, url, version, place["digest"])
            config_url = f"{url}/shpc/{module}/container.yaml"
            entries[module] = {"config": config | {"oras": repository}, "config_url": config_url}
    site.write(f"{subject.name}/library.json", json.dumps(entries, indent=1, sort_keys=True))


def write_library(site: Site, names: list[str]) -> None:
    """Write what a remote registry says of the whole site."""
    entries: dict[str, Any] = {}
    for name in names:
        entries |= site.load(f"{name}/library.json")
    site.write("library.json", json.dumps(entries, indent=1, sort_keys=True))


def _config(
    site: Site,
    subject: Collection,
    tag: str,
    build: Build,
    url: str,
    version: str,
    digest: str,
) -> dict[str, Any]:
    """Return an entry, with no aliases, of which shpc would make commands."""
    help_text = site.record(build.key)["shown"].get("help") or ""
    first = " ".join(help_text.split())[:_LONGEST] or f"{tag} of {subject.name}"
    owner = subject.name.partition("/")[0]
    address = f"{url}/{subject.name}/{tag}/index.html" if url else ""
    return {
        "maintainer": f"@{owner}",
        "description": first,
        "url": address,
        "latest": {version: digest},
        "tags": {version: digest},
    }
