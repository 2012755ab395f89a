r"""What can go wrong, in the user's words. This module imports nothing.

Every error carries what failed (``what``), why (``why``), what to do now
(``remedy``) and the exit status that the command ends with::

    SingbuildError          1   anything that fits nowhere below
    ├── UsageError          2   the command line, or a variable
    │   └── ConfigurationError  a configuration file: file and line
    ├── RecipeError         3   the recipe's text: file, line, column
    ├── RecipeKeyError      3   a header value that its backend cannot take
    ├── BackendError        4   no such backend, or one that is broken
    ├── HostError           5   the host lacks a program, a privilege, space
    ├── SourceError         6   an input: mirror, download, checksum
    ├── SectionError        7   a command of %setup, %post or %test failed
    ├── ImageError          8   the target, or a file that is not a sound image
    ├── LockError           9   the lock: none there, or an input that differs from it
    └── SignatureError     10   a signature that is not accepted, or one that is missing

Interruption is no error: Ctrl-C ends with 130, SIGTERM with 143. Whatever else
escapes is a bug and ends with 70.
"""

# EX_SOFTWARE of sysexits.h; then 128 and the number of the signal, as a shell has it.
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class SingbuildError(Exception):
    """An error that a user can understand and act upon.

    what: one sentence without a full stop, naming the file, key or path.
    why: the reason, as far as it is known; may be empty.
    remedy: what to do now, in the imperative; may be empty.
    """

    status = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.remedy) if part)


class UsageError(SingbuildError):
    """The command line asks for something that cannot be."""

    status = 2


class ConfigurationError(UsageError):
    """A configuration file is wrong at a known place. line: from 1, 0 for the whole file."""

    def __init__(self, path: str, line: int, what: str, remedy: str = "") -> None:
        super().__init__(f"{path}:{line}: {what}" if line else what, remedy=remedy)
        self.path, self.line = path, line


class RecipeError(SingbuildError):
    """The recipe's text is wrong at a known place.

    path: the recipe as the user named it; line, column: from 1, column 0 for
    the whole line; text: the line itself, shown with a marker under the column.
    """

    status = 3

    def __init__(
        self,
        path: str,
        line: int,
        column: int,
        text: str,
        what: str,
        *,
        why: str = "",
        remedy: str = "",
    ) -> None:
        place = f"{path}:{line}:{column}" if column else f"{path}:{line}" if line else path
        super().__init__(f"{place}: {what}", why=why, remedy=remedy)
        self.path, self.line, self.column, self.text = path, line, column, text

    def __str__(self) -> str:
        lines = [self.what]
        if self.line:
            lines.append(f"  {self.line:4} | {self.text}")
        if self.column:
            indent = "".join("\t" if c == "\t" else " " for c in self.text[: self.column - 1])
            lines.append(f"       | {indent}^")
        return "\n".join([*lines, *(part for part in (self.why, self.remedy) if part)])


class RecipeKeyError(SingbuildError):
    """A backend cannot take a keyword's value; the engine adds file and line.

    keyword: as the backend spells it.
    """

    status = 3

    def __init__(self, keyword: str, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.keyword = keyword


class BackendError(SingbuildError):
    """A backend is not installed, is installed twice, or does not keep the contract."""

    status = 4


class HostError(SingbuildError):
    """The host cannot do what the build needs."""

    status = 5


class SourceError(SingbuildError):
    """An input could not be fetched, or has another digest than expected."""

    status = 6


class SectionError(SingbuildError):
    """A command of a recipe's section failed.

    section: its name; "" when no command failed, but what the section left cannot be taken.
    step: which part of it failed; state: of the shell before that.
    """

    status = 7

    def __init__(self, what: str, *, section: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.section = self.step = section
        self.state = ""


class ImageError(SingbuildError):
    """The target cannot be written, or a file is not a sound image."""

    status = 8


class LockError(SingbuildError):
    """There is no lock to keep to, or an input differs from it: trying again does not help."""

    status = 9


class SignatureError(SingbuildError):
    """A signature is not accepted, or one that was asked for is missing."""

    status = 10
