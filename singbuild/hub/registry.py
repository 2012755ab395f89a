"""Files by which clients of other registries find a site's images: any web server of files is one.

shub:    api/container/OWNER/NAME:TAG[@COMMIT] and OWNER/NAME@COMMIT, a JSON object with ``image``
library: v1/images/OWNER/NAME/TAG:VERSION and v1/imagefile/…, VERSION is latest or a commit
TRS:     ga4gh/trs/v2/…, each as a directory with index.json

Sources: Apptainer's internal/pkg/client/shub; Sylabs' library client; GA4GH Tool Registry Service
2.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from singbuild import __version__
from singbuild.hub.collection import Build, Collection, Entry
from singbuild.hub.recipes import LATEST
from singbuild.hub.site import Site, dumped

_TRS = "ga4gh/trs/v2"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(site: Site, collection: Collection, url: str) -> None:
    """Write what clients ask for of one collection. url: of the site; shub:// needs it."""
    for tag in collection.commits[-1].builds:
        for number, (entry, build) in enumerate(collection.steps(tag)):
            if build.status == "built" and site.image(build.key).exists():
                _library(site, collection.name, tag, entry, build, is_newest=not number)
                if url:
                    _shub(site, collection.name, tag, entry, build, url, is_newest=not number)
    _tools(site, collection, url)


def write_service(site: Site, names: list[str], url: str) -> None:
    """Write what TRS clients ask for of the whole site. url: of the site; TRS wants one."""
    info = {
        "id": "singbuild.hub",
        "name": "singbuild hub",
        "type": {"group": "org.ga4gh", "artifact": "trs", "version": "2.1.0"},
        "organization": {"name": "singbuild", "url": url or "http://localhost"},
        "version": __version__,
    }
    site.write(f"{_TRS}/service-info/index.json", dumped(info))
    site.write_pieces(f"{_TRS}/tools/index.json", _all_tools(site, names))


def _all_tools(site: Site, names: list[str]) -> Iterator[str]:
    """Yield the text of the list of all tools, one by one: it is as long as the site is large."""
    between = "["
    for name in names:
        for tool in site.load(f"{name}/tools.json").get("tools", []):
            yield between + "\n" + json.dumps(tool, sort_keys=True)
            between = ","
    yield ("[" if between == "[" else "") + "\n]\n"


def dumped_list(values: list[Any]) -> str:
    """Return a list as the text of a JSON file."""
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def _shub(
    site: Site, name: str, tag: str, entry: Entry, build: Build, url: str, *, is_newest: bool
) -> None:
    record = site.record(build.key)
    facts = dumped(
        {
            "id": build.key,
            "name": name,
            "tag": tag,
            "commit": entry.id,
            "version": record["image"]["md5"],
            "image": f"{url}/images/{build.key}.sif",
        }
    )
    home, _, short = name.partition("/")
    words = [f"{short}:{tag}@{entry.id}", f"{short}:{tag}@{record['image']['md5']}"]
    if is_newest:
        words.append(f"{short}:{tag}")
        if tag == LATEST:
            words += [short, f"{short}@{entry.id}"]
    for word in words:
        site.write(f"api/container/{home}/{word}", facts)


def _library(
    site: Site, name: str, tag: str, entry: Entry, build: Build, *, is_newest: bool
) -> None:
    record = site.record(build.key)
    owner, _, short = name.partition("/")
    machine = record["shown"]["machine"]
    versions = [entry.id, *([LATEST] if is_newest else [])]
    facts = {
        "id": build.key,
        # With a dot, as Sylabs' library client spells it.
        "hash": f"sha256.{record['image']['sha256']}",
        "size": record["image"]["size"],
        "arch": machine,
        "tags": versions,
        "entityName": owner,
        "collectionName": short,
        "containerName": tag,
        "uploaded": True,
    }
    for version in versions:
        site.write(f"v1/images/{name}/{tag}:{version}", dumped({"data": facts}))
        site.link_image(build.key, f"v1/imagefile/{name}/{tag}:{version}")


def _tools(site: Site, collection: Collection, url: str) -> None:
    """Write a collection's tools as TRS has them: a tool for each tag, a version for each build."""
    tools = []
    for tag in collection.commits[-1].builds:
        # Servers refuse a quoted slash, and trs-cli a colon.
        tool_id = f"{collection.name}/{tag}".replace("/", "~")
        place = f"{_TRS}/tools/{tool_id}"
        versions = list(_versions(site, collection, tag, url, place))
        if not versions:
            continue
        tool = {
            "id": tool_id,
            "url": f"{url}/{place}" if url else place,
            "organization": collection.name.partition("/")[0],
            "name": tag,
            "toolclass": {"id": "image", "name": "Container image", "description": ""},
            "has_checker": False,
            "versions": versions,
        }
        tools.append(tool)
        site.write(f"{place}/index.json", dumped(tool))
        site.write(f"{place}/versions/index.json", dumped_list(versions))
    site.write(f"{collection.name}/tools.json", dumped({"tools": tools}))


def _versions(
    site: Site, collection: Collection, tag: str, url: str, place: str
) -> Iterator[dict[str, Any]]:
    for entry, build in collection.steps(tag):
        record = site.record(build.key)
        if record["status"] != "built":
            continue
        here = f"{place}/versions/{entry.id}"
        version = {
            "id": entry.id,
            "name": entry.id[:12],
            "url": f"{url}/{here}" if url else here,
            "images": [
                {
                    "registry_host": url,
                    "image_name": f"images/{build.key}.sif",
                    "image_type": "Singularity",
                    "size": record["image"]["size"],
                    "checksum": [{"type": "sha-256", "checksum": record["image"]["sha256"]}],
                }
            ],
            "containerfile": True,
            "is_production": False,
            "verified": False,
        }
        file = {"content": record["source"], "checksum": [], "url": ""}
        site.write(f"{here}/index.json", dumped(version))
        site.write(f"{here}/containerfile/index.json", dumped_list([file]))
        yield version
