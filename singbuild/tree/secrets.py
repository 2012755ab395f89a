"""Secrets of a build: readable in %post, hidden in what is shown, never in the image.

docs/ci.md, "Secrets", says what is promised. Values stay in memory; on a disk they are only
where nothing may be mounted, and only while %post executes.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.errors import SectionError, UsageError
from singbuild.ext3.node import MANIFEST, Node, shown
from singbuild.ext3.writer.filedata import pieces
from singbuild.ext3.writer.inventory import inventory
from singbuild.tree.rootfs import Rootfs
from singrun import syscalls
from singrun.syscalls import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID

DIRECTORY = "/run/secrets"
SEARCHED = 8  # bytes; the image of a shorter one may hold its value by chance
MASK = "***"
UNTOLD = "The words are not repeated here: they may hold the secret."
_WORDS = re.compile(r"id=([\w-][\w.-]*),(src|env)=(.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Secret:
    """One secret. name: of its file in /run/secrets; value: the file's content."""

    name: str
    value: bytes = field(repr=False)

    @property
    def core(self) -> bytes:
        """The value without the newlines that editors put at the end."""
        return self.value.rstrip(b"\r\n")


def read(options: Iterable[str]) -> tuple[Secret, ...]:
    """Read secrets as ``--secret`` names them: ``id=NAME,src=FILE`` or ``id=NAME,env=VARIABLE``.

    A variable is gone afterwards, for us and for all that we will execute. Raises UsageError for
    another form, a name that comes twice, or a value that is not there.
    """
    by_name: dict[str, Secret] = {}
    variables: list[str] = []
    for words in options:
        match = _WORDS.fullmatch(words)
        if match is None or match[1] in by_name:
            what = f"two secrets are called {match[1]}" if match else "a --secret is not understood"
            remedy = "Say --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE."
            raise UsageError(what, why=UNTOLD * (match is None), remedy=remedy)
        secret = Secret(match[1], _value(match[1], match[2], match[3]))
        if not secret.core:
            raise UsageError(f"--secret id={secret.name}: its value is empty")
        by_name[secret.name] = secret
        if match[2] == "env":
            variables.append(match[3])
    for variable in variables:
        _forget(variable)
    return tuple(by_name.values())


def _value(name: str, kind: str, where: str) -> bytes:
    if kind == "env":
        value = os.environb.get(os.fsencode(where))
        if value is None:
            raise UsageError(
                f"--secret id={name}: the variable that env= names is not set",
                remedy=f"It takes a name, not a value. {UNTOLD}",
            )
        return value
    try:
        return Path(where).read_bytes()
    except OSError as error:
        raise UsageError(
            f"--secret id={name}: the file that src= names cannot be read",
            why=f"{error.strerror}. {UNTOLD}",
        ) from error


def _forget(variable: str) -> None:
    """Remove a variable from the environment, and overwrite it in /proc/PID/environ.

    That is the memory in which execve(2) put it, whatever unsetenv(3) did; children inherit it.
    """
    os.environ.pop(variable, None)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = map(int, fields[47:49])  # env_start and env_end, the fields 50 and 51: proc(5)
    environ = ctypes.string_at(start, end - start)
    for entry in re.finditer(rb"(?<![^\0])%s=[^\0]*" % re.escape(os.fsencode(variable)), environ):
        ctypes.memset(start + entry.start(), 0, len(entry[0]))


@contextlib.contextmanager
def readable(rootfs: Rootfs, secrets: Sequence[Secret]) -> Iterator[None]:
    """Write a file for each secret, mode 0400, for the time of a with-block.

    On a tmpfs of their own; where nothing may be mounted, in the tree.
    """
    if not secrets:
        yield
        return
    missing = [name for name in ("/run", DIRECTORY) if not rootfs.exists(name)]
    rootfs.mkdir(DIRECTORY, 0o700)
    with rootfs.directory(DIRECTORY) as place:
        on_tmpfs = _mount_tmpfs(place, sum(len(secret.value) for secret in secrets))
    # Opened anew: the descriptor before was of the directory under the tmpfs.
    with rootfs.directory(DIRECTORY) as fd:
        try:
            for secret in secrets:
                _write(fd, secret)
            yield
        finally:
            # By the open directory: a section may have put anything where it was.
            for secret in secrets:
                with contextlib.suppress(OSError):
                    os.unlink(secret.name, dir_fd=fd)
            if on_tmpfs:
                syscalls.umount2(f"/proc/self/fd/{fd}", MNT_DETACH)
    for name in reversed(missing):
        # With what a section has left there they stay: rmdir(2), ENOTEMPTY.
        with contextlib.suppress(OSError):
            rootfs.rmdir(name)


def _mount_tmpfs(directory: int, size: int) -> bool:
    """Mount a tmpfs with room for ``size`` bytes on an open directory; return whether it could."""
    # A mebibyte more: tmpfs(5) counts whole pages, one at least for each file.
    where, data = f"/proc/self/fd/{directory}", f"mode=0700,size={size + (1 << 20)}"
    try:
        syscalls.mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, data)
    except OSError:
        return False
    return True


def _write(directory: int, secret: Secret) -> None:
    # Where there is no tmpfs the image may have a link of this name: never written through.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(secret.name, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(secret.name, flags, 0o400, dir_fd=directory), "wb") as file:  # noqa: PTH123
        file.write(secret.value)


def masked(secrets: Sequence[Secret]) -> Callable[[str], str]:
    """Return a function that masks secrets in text: whole, by line, quoted, in base64."""
    forms = {form for secret in secrets for form in _spellings(secret)}
    if not forms:
        return str
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(MASK, text)


def _spellings(secret: Secret) -> Iterator[str]:
    lines = [line for line in secret.core.splitlines() if len(line) >= SEARCHED]
    for value in (secret.core, *lines, *_encoded(secret)):
        text = value.decode(errors="replace")
        yield text
        for quoted in ("'\"'\"'", "'\\''"):  # as shells trace it
            yield text.replace("'", quoted)


def are_in(text: str, secrets: Sequence[Secret]) -> bool:
    """Whether a text, such as a shell's variables, holds one of the secrets."""
    data = text.encode(errors="surrogateescape")
    return any(core in data for secret in secrets for core in (secret.core, *_encoded(secret)))


def check_absent(root: Path, secrets: Sequence[Secret]) -> None:
    """Refuse a tree that holds the value of a secret, or its base64, anywhere.

    Content, names, links' targets and extended attributes are searched, each once. A secret of
    fewer than 8 bytes is not looked for. Raises SectionError naming the path.
    """
    needles = {
        needle: secret.name
        for secret in secrets
        if len(secret.core) >= SEARCHED
        for needle in (secret.core, *_encoded(secret))
    }
    if not needles:
        return
    for path, data in _disclosing(root, max(map(len, needles))):
        for needle, name in needles.items():
            if needle in data:
                raise SectionError(
                    f"the secret {name!r} is in the image: {shown(path)}",
                    why="Anyone with the image would have the secret.",
                    remedy="Remove it at the end of %post, or let no program write it there.",
                )


def _disclosing(root: Path, longest: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield all that an image would tell, with the path in the tree where it stands.

    Data are in pieces that overlap by the longest needle.
    """
    nodes = inventory(root, 0)
    for directory, names in nodes.directories():
        for name, *_ in names:  # of a file with several, all
            yield (directory.path + b"/" + name).lstrip(b"/"), name
    for node in nodes:
        for data in _content(os.fsencode(root) + b"/" + node.path, node, longest):
            yield node.path, data


def _content(path: bytes, node: Node, longest: int) -> Iterator[bytes]:
    """Yield the target, attributes and data of one inode."""
    if stat.S_ISLNK(node.mode):
        yield os.readlink(path)  # noqa: PTH115 - bytes
    with contextlib.suppress(OSError):  # a file system without any
        for name in os.listxattr(path, follow_symlinks=False):
            yield os.fsencode(name)
            yield os.getxattr(path, name, follow_symlinks=False)
    if stat.S_ISREG(node.mode) and node.path != MANIFEST:  # which the seal has yet to fill
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            end, tail = 0, b""
            for offset, data in pieces(node, fd):
                joined = tail + data if tail and offset == end else data
                yield joined
                end, tail = offset + len(data), joined[-longest:] if len(data) < node.size else b""
        finally:
            os.close(fd)


def _encoded(secret: Secret) -> Iterator[bytes]:
    """Yield the characters of a secret's base64 that do not depend on what stands around it.

    There are three: base64 encodes three bytes at a time, and any number may stand before it.
    """
    if len(secret.core) < SEARCHED:
        return
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret.core).rstrip(b"=")
        first, bits = -(-before * 8 // 6), (before + len(secret.core)) * 8
        text = whole[first : bits // 6]
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))
