"""Reads /etc/singbuild.conf and the user's singbuild.conf; answers what has been set, and where.

An option comes before a variable, a variable before the user's file, that before the site's, and
all before what is built in. What a policy does not allow in one file, the other cannot allow.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.configuration import settings
from singbuild.errors import ConfigurationError, HostError, UsageError
from singrun import config
from singrun.errors import RunError, nearest

SITE = "/etc/singbuild.conf"
SITE_VARIABLE = "SINGBUILD_CONFIG"
BUILT_IN = "built in"
_BELOW_HOME = ".config/singbuild"
_current: list[Configuration] = []


@dataclass(frozen=True)
class Value:
    """What a setting is set to. source: for people, what sets it; path, line: of a file."""

    text: str
    source: str = BUILT_IN
    path: str = ""
    line: int = 0


@dataclass(frozen=True)
class Configuration:
    """What the files set. files: those that were read, the site's first; values: by setting."""

    files: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    def check_variables(self) -> None:
        """Refuse a variable whose value cannot be meant. Raises UsageError."""
        for name in settings.SETTINGS:
            value = self.value(name)
            complaint = settings.complaint_of_variable(name, value.text)
            if complaint and value.source.isupper():
                raise UsageError(f"{value.source}: {value.text!r} {complaint}")

    def value(self, name: str) -> Value:
        """Return the value that counts where no option says otherwise."""
        setting = settings.SETTINGS.get(name, settings.Setting(str))
        for variable in setting.variables:
            if text := os.environ.get(variable):
                if name == "cache directory" and not variable.startswith("SINGBUILD"):
                    text += "/singbuild"  # beside what Apptainer keeps there
                return Value(text, variable)
        return self.values.get(name) or Value(setting.default)

    def mirrors(self) -> dict[str, str]:
        """Return the URL of each mirror by its name."""
        prefix = settings.MIRROR
        return {
            name.removeprefix(prefix): value.text
            for name, value in self.values.items()
            if name.startswith(prefix)
        }


def current() -> Configuration:
    """Return the configuration of this process, read when it is first asked for."""
    return _current[0] if _current else read()


def read() -> Configuration:
    """Read the files anew. Raises ConfigurationError; HostError for one that cannot be trusted."""
    path = os.environ.get(SITE_VARIABLE, "")
    site, has_site_file = _entries(path or SITE)
    if path and not has_site_file:
        raise ConfigurationError(
            path,
            0,
            f"{SITE_VARIABLE} names {path}, which is not there",
            f"Unset it: {SITE} counts.",
        )
    # A file that its user may not read, as in a home that sudo has left closed, does not count.
    is_readable = os.access(user_file(), os.R_OK)
    user, has_user_file = _entries(str(user_file())) if is_readable else ({}, False)
    values = {**site}
    for name, value in user.items():
        values[name] = _stricter(name, site.get(name), value)
    files = [path or SITE] * has_site_file + [str(user_file())] * has_user_file
    _current[:] = [Configuration(tuple(files), values)]
    return _current[0]


def user_file() -> Path:
    """Return the user's file; root's own for root with another's HOME, as by sudo -E."""
    import platformdirs  # --help, of which the man pages are made, needs click alone

    directory = platformdirs.user_config_path("singbuild")
    if os.geteuid() == 0:
        # Not Path.exists(), which raises PermissionError: root may be kept out of a user's home.
        there = next(each for each in (directory, *directory.parents) if os.path.exists(each))  # noqa: PTH110
        if there.stat().st_uid not in (0, 65534):  # unmapped: root in a user namespace
            directory = Path(pwd.getpwuid(0).pw_dir, _BELOW_HOME)
    return directory / "singbuild.conf"


def _entries(path: str) -> tuple[dict[str, Value], bool]:
    """Return what a file sets, and whether it is there."""
    try:
        lines = config.entries(path)
    except RunError as error:
        what = error.what[:1].lower() + error.what[1:]
        raise HostError(what, why=error.why, remedy=error.remedy) from None
    values: dict[str, Value] = {}
    for line, name, text in lines or ():
        setting = settings.by_name(name)
        if setting is None:
            raise _unknown(path, line, name)
        if text is None:
            remedy = f"Write: {name} = VALUE"
            raise ConfigurationError(path, line, f"{name} has no value", remedy)
        if complaint := setting.complaint(text):
            remedy = "man singbuild.conf tells what it takes."
            raise ConfigurationError(path, line, f"{name}: {text!r} {complaint}", remedy)
        if name.endswith("directory"):
            text = config.expanded(text, os.environ)
        if text:  # a directory by a variable that is not set: the default counts
            values[name] = Value(text, f"{path}, line {line}", path, line)
    return values, lines is not None


def _unknown(path: str, line: int, name: str) -> ConfigurationError:
    guess = nearest(name, [*settings.SETTINGS]) or next(
        (setting for setting in settings.SETTINGS if name in setting.split()), ""
    )
    remedy = f"Did you mean {guess!r}?" if guess else "man singbuild.conf lists all settings."
    if name.startswith(settings.MIRROR):
        remedy = "Say: mirror NAME = URL, with a word in small letters as the name: debian."
    return ConfigurationError(path, line, f"there is no setting {name!r}", remedy)


def _stricter(name: str, site: Value | None, user: Value) -> Value:
    """Return the user's value; of a policy the one that allows less."""
    if site is None or not settings.SETTINGS.get(name, settings.Setting(str)).policy:
        return user
    if name == "allow backend":
        allowed = words(site.text)
        both = [word for word in words(user.text) if word in allowed]
        return Value(" ".join(both), f"{site.source}, and {user.source}", user.path, user.line)
    return user if settings.is_yes(site.text) else site


def words(text: str) -> list[str]:
    """Return the words of a list."""
    return text.replace(",", " ").split()
