"""What is said of words that mean nothing where they stand. No launch imports it."""

import os

from singrun.errors import UsageError, nearest
from singrun.options import ALIASES, FLAGS, REMEDY, SHORT, VALUES
from singrun.verbs import manual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.options import Setting

_BUILDER = (
    "attest-rebuild",
    "backends",
    "bootstrap",
    "build",
    "completion",
    "convert",
    "copy",
    "create",
    "diff",
    "expand",
    "export",
    "formats",
    "import",
    "hub",
    "inspect",
    "lock",
    "login",
    "logout",
    "new-backend",
    "plan",
    "pull",
    "push",
    "shrink",
    "sign",
    "verify",
)
_OTHERS = {  # words of other tools, and what they are here
    "list": "singrun instances",
    "ps": "singrun instances",
    "kill": "singrun stop",
    "version": "singrun --version",
    "check": "singbuild verify",
    "images": "singbuild cache list",
}


def no_verb(word: str, words: "list[str] | None" = None) -> UsageError:
    """Return what to say of a first word that is no verb. words: all, options before it too."""
    meant = {verb: verb for verb in manual.VERBS}
    meant |= {verb: f"singbuild {verb}" for verb in _BUILDER} | _OTHERS
    guess = nearest(word, [*meant])
    why = f"Did you mean {meant[guess]}?" if guess else f"The verbs are {', '.join(manual.VERBS)}."
    remedy = REMEDY
    if os.path.exists(word) and words and words != [word]:
        verb = "run" if words[-1] == word else "exec"
        remedy = f"With an image of that name: singrun {verb} {' '.join(words)}"
    elif os.path.exists(word):
        remedy = f"An image here is run as: singrun ./{word}"
    if not guess and "." in word and not os.path.exists(word):
        here = [name for name in os.listdir() if os.path.isfile(name)]
        near = nearest(word, here)
        why = (
            f"Did you mean the image {near}?" if near else "There is no file of that name, either."
        )
    return UsageError(f"There is no verb {word}", why=why, remedy=remedy)


def no_command(image: str, settings: "list[Setting]") -> UsageError:
    """Return what to say of an exec without a command: an option may have taken the image."""
    why = ""
    if settings and settings[-1][1] and settings[-1][0] in VALUES:
        name, value = settings[-1]
        why = f"{image} was taken as the image, and {value} as the value of --{name}."
    return UsageError("No command was given to exec", why=why, remedy=REMEDY)


def no_program(verb: str, image: str, words: list[str]) -> UsageError:
    """Return what to say of a command that begins with a dash: an option behind the image."""
    word = words[0]
    name = word.lstrip("-").partition("=")[0]
    name = SHORT.get(name[:1], "") if not word.startswith("--") else ALIASES.get(name, name)
    remedy = REMEDY
    if name in FLAGS or name in VALUES:
        count = 1 + (name in VALUES and "=" not in word and word in (f"--{name}", word[:2]))
        line = ["singrun", verb, *words[:count], image, *words[count:]]
        remedy = f"Options stand before the image: {' '.join(line)}"
    elif name == "help":
        remedy = f"Say: singrun help {verb}, or singrun help {image}"
    return UsageError(f"There is no command {word}", why="", remedy=remedy)


def leftover(verb: str, words: list[str]) -> UsageError:
    """Return what to say of words that a verb does not take."""
    usage = manual.VERBS[verb][0]
    return UsageError(
        f"{verb} takes no {' '.join(words)}", remedy=f"Usage: singrun {verb} [OPTIONS] {usage}"
    )
