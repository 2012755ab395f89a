"""The directories that dnf works with: repositories, its configuration, a home for rpm's macros.

WHERE/repositories/NAME/repodata/…      the mirror's own indices
WHERE/repositories/NAME/…rpm            the pinned packages, and no others
WHERE/keys/0.asc …                      who may sign them
WHERE/home/.rpmmacros                   rpm's settings, instead of Debian's
WHERE/dnf.conf, WHERE/none/             dnf's, instead of the host's
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild_yum.repository import Repository, inside

DATABASE = "/var/lib/rpm"
# Debian's rpm keeps its database in the caller's home. Mounts are none of rpm's business.
MACROS = """\
%_dbpath {database}
%_netsharedpath /proc:/sys:/dev
%_install_langs all
%_excludedocs 0
"""


@dataclass(frozen=True)
class Layout:
    """The paths of these directories.

    own_database: the image has an rpm, which will write the database itself, in its
    own form and place; until then the host's is kept here.
    """

    where: Path
    own_database: bool = False

    @property
    def database(self) -> str:
        """Where the host's rpm keeps its database, in the image."""
        return f"/{self.where.name}/database" if self.own_database else DATABASE

    @property
    def config(self) -> Path:
        """The configuration of dnf."""
        return self.where / "dnf.conf"

    @property
    def home(self) -> Path:
        """Where rpm finds its macros."""
        return self.where / "home"

    @property
    def keys(self) -> list[Path]:
        """The keys that may sign packages."""
        return sorted((self.where / "keys").iterdir())

    def package(self, pin: Mapping[str, Any]) -> Path:
        """Return where a pinned package is."""
        repository: str = pin["repository"]
        return self.where / "repositories" / repository / inside(pin["file"])

    def write(
        self,
        repositories: Iterable[Repository],
        choice: Mapping[str, Any],
        files: Mapping[str, Path],
        keys: Sequence[bytes],
    ) -> None:
        """Write everything. choice: the pins, or what is known of them before they are."""
        for directory in ("none", "home", "keys"):
            (self.where / directory).mkdir(parents=True)
        for number, key in enumerate(keys):
            (self.where / "keys" / f"{number}.asc").write_bytes(key)
        (self.home / ".rpmmacros").write_text(MACROS.format(database=self.database))
        names = []
        for repository in repositories:
            names.append(repository.name)
            for file, source in repository.files.items():
                self._place(source, self.where / "repositories" / repository.name / file)
        for pinned, source in files.items():
            self._place(source, self.package(choice["packages"][pinned]))
        self.config.write_text(self._configuration(names, choice))

    def _place(self, source: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.own_database:
            shutil.copyfile(source, place)  # the image's rpm could not follow a link out of it
        else:
            place.symlink_to(source)

    def _configuration(self, names: Iterable[str], choice: Mapping[str, Any]) -> str:
        none = self.where / "none"
        # zchunk: the mirror's repomd.xml may name indices of this kind too, which are not fetched:
        # dnf.conf(5).
        lines = ["[main]", "plugins=0", "zchunk=0", f"gpgcheck={int(choice['gpgcheck'])}"]
        lines += [f"{name}={none}" for name in ("reposdir", "varsdir", "pluginpath")]
        lines += [f"excludepkgs={' '.join(choice['excludes'])}"]
        keys = " ".join(key.as_uri() for key in self.keys)
        for name in names:
            url = (self.where / "repositories" / name).as_uri()
            lines += [f"[{name}]", f"name={name}", f"baseurl={url}", "enabled=1"]
            lines += [f"gpgkey={keys}", "repo_gpgcheck=0"]
        return "\n".join(lines) + "\n"
