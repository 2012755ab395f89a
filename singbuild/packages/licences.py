"""Licences in the words of SPDX, as far as they can be said for certain.

Package databases have three vocabularies: SPDX, Debian's machine-readable
copyright files, and the short names Fedora used before 2023. What has no name
there is referred to by a name of its own, and the bill of materials quotes it.

The list is our own, not the package license-expression's: the bill is part of the image,
whose bytes shall not change with the version of a library.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# The identifiers that nearly all packages use; https://spdx.org/licenses has all.
_SPDX = """
    0BSD AFL-2.1 AGPL-3.0-only AGPL-3.0-or-later Apache-1.1 Apache-2.0 Artistic-1.0
    Artistic-1.0-Perl Artistic-2.0 Beerware BSD-1-Clause BSD-2-Clause BSD-3-Clause BSD-4-Clause
    BSL-1.0 bzip2-1.0.6 CC0-1.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CDDL-1.0 CPL-1.0 curl
    EPL-1.0 EPL-2.0 EUPL-1.2 FSFAP FSFUL FSFULLR FTL GFDL-1.1-or-later GFDL-1.2-only
    GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later GPL-1.0-only GPL-1.0-or-later GPL-2.0-only
    GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ICU IJG ISC JSON LGPL-2.0-only
    LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later Libpng libtiff
    MIT MIT-0 MIT-CMU MPL-1.1 MPL-2.0 NCSA NTP OFL-1.1 OLDAP-2.8 OpenSSL OpenSSL-standalone PHP-3.01
    PostgreSQL PSF-2.0 Python-2.0 Python-2.0.1 Ruby Sleepycat SSH-OpenSSH SSPL-1.0 TCL Unicode-3.0
    Unicode-DFS-2016 Unlicense UPL-1.0 Vim W3C WTFPL X11 Zlib ZPL-2.1
"""
_EXCEPTIONS = """
    Autoconf-exception-2.0 Autoconf-exception-3.0 Bison-exception-2.2 Classpath-exception-2.0
    GCC-exception-2.0 GCC-exception-3.1 Libtool-exception Linux-syscall-note LLVM-exception
    OpenJDK-assembly-exception-1.0
"""
_OTHER_NAMES = {
    "expat": "MIT",
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "cc0": "CC0-1.0",
    "psf-2": "PSF-2.0",
    "mplv1.1": "MPL-1.1",
    "mplv2.0": "MPL-2.0",
    "boost": "BSL-1.0",
}
_WHOLE = {
    "mit license": "MIT",
    "isc license (iscl)": "ISC",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
_FAMILY = re.compile(r"(?i)(AGPL|LGPL|GPL|GFDL)[-v]?(\d(?:\.\d)?)(?:\.0)?(\+?)", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", re.ASCII)
_OPERATORS = {"and": "AND", "or": "OR", "with": "WITH"}
_SPDX_NAMES = {name.lower(): name for name in _SPDX.split()}
_KNOWN_EXCEPTIONS = {name.lower(): name for name in _EXCEPTIONS.split()}


@dataclass(frozen=True)
class Declared:
    """An SPDX expression, and what its references to licences outside SPDX's list stand for."""

    expression: str
    references: dict[str, str]


def declared(text: str) -> Declared:
    """Return what a database's text means. A text that is no expression is one reference."""
    if whole := _WHOLE.get(text.lower()):
        return Declared(whole, {})
    references: dict[str, str] = {}
    words = [*_words(text, references)]
    if _is_expression(words):
        return Declared(" ".join(words).replace("( ", "(").replace(" )", ")"), references)
    return Declared(reference(text), {reference(text): text})


def reference(text: str) -> str:
    """Return the identifier of a licence outside SPDX's list, readable where it can be."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", text)[:40].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    if readable == text and text:
        return f"LicenseRef-{text}"
    return f"LicenseRef-{readable}-{digest}" if readable else f"LicenseRef-{digest}"


def debian(licences: Iterable[str]) -> str:
    """Return one text for the licences of all parts of a Debian package, each named once."""
    first_lines = (each.partition("\n")[0] for each in licences)
    names = dict.fromkeys(_grouped(" ".join(line.split())) for line in first_lines if line.strip())
    return " and ".join(f"({n})" if " " in n and len(names) > 1 else n for n in names)


def _grouped(text: str) -> str:
    """Return "A or B, and C", in which the comma binds loosest, with parentheses.

    What is no expression, such as "GPL-2+ with OpenSSL exception", becomes one word.
    Syntax: "License short name" in Debian's copyright-format 1.0.
    """
    parts = re.split(r", (?=and )", text)
    if len(parts) > 1:
        return " and ".join(f"({_grouped(part.removeprefix('and '))})" for part in parts)
    return text if _is_expression([*_words(text, {})]) else re.sub(r"[^A-Za-z0-9.+]+", "-", text)


def _words(text: str, references: dict[str, str]) -> Iterator[str]:
    """Yield a text's words in SPDX's spelling, "" for one that cannot be; note references."""
    before = ""
    for word in re.findall(r"[()]|[^\s()]+", text):
        low = word.lower()
        if low in _OPERATORS or word in "()":
            yield _OPERATORS.get(low, word)
        elif before == "with":
            yield _KNOWN_EXCEPTIONS.get(low, "")
        elif name := _SPDX_NAMES.get(low) or _OTHER_NAMES.get(low) or _family(word):
            yield name
        elif _WORD.fullmatch(word):
            references[reference(word)] = word
            yield reference(word)
        else:
            yield ""
        before = low


def _family(word: str) -> str:
    """Return GPL-2+ of Debian and GPLv2+ of Fedora as GPL-2.0-or-later."""
    match = _FAMILY.fullmatch(word)
    if not match:
        return ""
    family, number, later = match.groups()
    number = number if "." in number else f"{number}.0"
    name = f"{family}-{number}-{'or-later' if later else 'only'}"
    return _SPDX_NAMES.get(name.lower(), "")


def _is_expression(words: list[str]) -> bool:
    """Whether known words, operators and parentheses alternate as SPDX's grammar asks (Annex D)."""
    depth, want_name = 0, True
    for place, word in enumerate(words):
        if word == "(":
            depth += 1
            sound = want_name
        elif word == ")":
            depth -= 1
            sound = not want_name and depth >= 0
        elif word in _OPERATORS.values():
            sound = not want_name and (word != "WITH" or words[place - 1] != ")")
            want_name = True
        else:
            sound = want_name and bool(word)
            want_name = False
        if not sound:
            return False
    return not want_name and not depth
