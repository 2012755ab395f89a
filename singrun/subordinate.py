"""Which ids the administrator lends a user: subuid(5). The builder reads them here, too."""

import os
import pwd

FILES = ("/etc/subuid", "/etc/subgid")
COUNT = 65536  # so many ids a namespace has, with the caller's own as its first


def user() -> str:
    """Return the caller's name; the number of one who has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def lines(path: str) -> list[list[str]]:
    """Return the fields of each line that has numbers where numbers must be."""
    try:
        with open(path, errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    fields = [line.strip().split(":") for line in text.splitlines() if not line.startswith("#")]
    return [each for each in fields if all(word.isdecimal() for word in each[1:])]


def first(path: str) -> "int | None":
    """Return where the caller's first range in a file begins that is long enough."""
    names = (user(), str(os.getuid()))
    for fields in lines(path):
        if len(fields) == 3 and fields[0] in names and int(fields[2]) >= COUNT:
            return int(fields[1])
    return None
