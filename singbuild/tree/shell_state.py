r"""Hands a shell's state from one %post section to the next, as if they were one script.

Each part has a shell of its own. At its end the shell writes, as commands that bring it back, what
the next one starts with: options, variables, functions, aliases, traps, umask, directory.
A step that comes from the cache brings this text with it.

    part 1 ── writes /.singbuild.after ──▶ singbuild ── /.singbuild.before, read by ──▶ part 2
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from singbuild.errors import ImageError, SectionError
from singbuild.recipe.recipe import Section
from singbuild.tree.rootfs import Rootfs

BEFORE, AFTER = "/.singbuild.before", "/.singbuild.after"
NOWHERE = "/.singbuild.nowhere"  # made and removed: for a part that removed its own directory
LARGEST = 4 << 20  # bytes
SPLIT = ("sh", "ash", "bash", "dash")  # the shells whose state is understood
# Only bash prints its functions; nobody prints where descriptors lead.
_FUNCTION = re.compile(r"^\s*(function\s|[\w.:-]+\s*\(\s*\))", re.MULTILINE)
_REDIRECTION = re.compile(r"^\s*exec\s+[\d{<>&]", re.MULTILINE)
# Variables that the builder sets for each part: a proxy in a cached state may be an old one, and
# its URL may have a password.
_FROM_BUILDER = re.compile(
    r"^(?:declare -\w+ |export )?(?:\w+_proxy|SOURCE_DATE_EPOCH|APT_CONFIG)=.*\n", re.I | re.M
)

# In front of a part, on its first line, which is empty; -xv comes after it, so nobody sees it.
_FIRST = f"[ ! -f {BEFORE} ] || . {BEFORE} 2>/dev/null; set -xv"
# Its first line is alone, so that the shell echoes and traces none of the others.
_LAST = rf"""{{ set +xv; }} 2>/dev/null
{{
echo 'set +e'
if [ -n "${{BASH_VERSION-}}" ]; then
    singbuild_options=$(set +o); set +e
    for singbuild in $(compgen -v); do
        case $singbuild in BASH*|FUNCNAME|GROUPS|DIRSTACK|PIPESTATUS|singbuild*|_) continue;;
            EPOCH*|HISTCMD|LINENO|RANDOM|SECONDS|SRANDOM) continue;; esac
        REPLY=$(declare -p "$singbuild" 2>/dev/null)
        case $REPLY in "declare -"*) ;; *) continue;; esac
        singbuild=${{REPLY#declare }}
        case ${{singbuild%% *}} in *r*) continue;; esac  # cannot be set again
        printf '%s\n' "$REPLY"
    done
    declare -f; alias -p; shopt -p
    printf '%s\n' "$singbuild_options"
else
    singbuild_options=$-; set +e
    export -p; set
    alias | while IFS= read -r singbuild; do printf 'alias %s\n' "${{singbuild#alias }}"; done
    set -o | while read -r singbuild REPLY; do
        [ "$singbuild $REPLY" != "pipefail on" ] || echo 'set -o pipefail'
    done
    for singbuild in a e f u C; do
        case $singbuild_options in
            *$singbuild*) echo "set -$singbuild" ;;
            *) echo "set +$singbuild" ;;
        esac
    done
fi
trap
echo "umask $(umask)"
echo 'cd -- "$PWD" || {{ mkdir {NOWHERE} && cd {NOWHERE} && rmdir {NOWHERE}; }} || cd /'
}} >{AFTER} 2>/dev/null
trap - EXIT
exit 0
"""


def parts(section: Section) -> tuple[Section, ...]:
    """Return the parts of a section that are steps of their own.

    Parts are joined where the shell's state between them cannot be handed on: see ``can_end``.
    """
    sections: list[Section] = []
    is_open = False
    for part in section.split():
        if is_open:
            sections[-1] = sections[-1].joined(part)
        else:
            sections.append(part)
        is_open = not can_end(section, part.body())
    return tuple(sections) or (section,)


def can_end(section: Section, text: str) -> bool:
    """Whether the state of a section's shell can be handed on after a part of its text."""
    shell = (section.interpreter or "/bin/sh").split()[-1].rpartition("/")[2]
    functions = shell != "bash" and _FUNCTION.search(text)
    return shell in SPLIT and not (functions or _REDIRECTION.search(text))


def script(section: Section, *, is_last: bool) -> str:
    """Return a part's script, with lines before and after it that pass on the shell's state."""
    _, _, lines = section.script().partition("\n")
    return f"{_FIRST}\n{lines}" + ("" if is_last else _LAST)


@contextlib.contextmanager
def lent(rootfs: Rootfs, state: str) -> Iterator[None]:
    """Write the state where the next part reads it, for the time of a with-block."""
    if state:
        rootfs.write(BEFORE, state.encode(errors="surrogateescape"))
    try:
        yield
    finally:
        rootfs.remove(BEFORE)
        rootfs.remove(AFTER)


def take(rootfs: Rootfs) -> str | None:
    """Return the state that a part has written; None when that part called exit.

    Raises SectionError.
    """
    if not rootfs.exists(AFTER):
        return None
    try:
        text = rootfs.read(AFTER, LARGEST).decode(errors="surrogateescape")
    except ImageError as error:
        raise SectionError(
            f"the variables of %post have more than {LARGEST >> 20} MiB",
            remedy="Write what is so long to a file, or join the %post sections.",
        ) from error
    return _FROM_BUILDER.sub("", text)
