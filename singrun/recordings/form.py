r"""The form of a recording, which player.c reads: bytes, and what each record means.

MAGIC, 16 digits, then fields that end with a zero byte each. The digits are the FNV-1a hash, in 64
bits, of all behind them, against a damaged file: the directory is its owner's own. A record is a
letter and as many fields as FIELDS says; three sections end with ".", "." and the end of the file.

Facts
    q PID MARKER                first, for ranks: that process is of their set: entering.py
    k WORD                      the next word of the command line; all of those before the program
    e NAME VALUE, n NAME        a variable of the environment, and one that there is not
    h NAME                      a variable that there is, whatever its value
    p PREFIX COUNT              so many variables' names begin so
    i UID GID, g "GID GID "     all user and group ids; the supplementary groups
    c PATH, b ID                the current directory; the kernel's boot_id: random(4)
    s HOW PATH IDENTITY         a file of the host, or "-" for none; HOW: f follows links, l not
    o PATH IDENTITY             the image, opened and locked
    d PATH IDENTITY             its place in the cache, opened and locked
    r NAME IDENTITY             its files there
    x                           programs can be executed from there: statvfs(3), ST_NOEXEC
    t FLAGS PATH IDENTITY       a file of the image, opened in it, or "-ERRNO"
    a PREFIX, m TEXT            arguments that are not looked for on the host; what is said where
                                another is not there inside, with \1 for its path, \2 its directory

Calls, under these letters. A register has a descriptor of an earlier call; "-" is AT_FDCWD.
    U unshare    O openat    R openat2 RESOLVE_IN_ROOT    T open_tree    M move_mount
    A mount_setattr    Q mount    u umount2    V pivot_root    W write    C close    D mkdirat
    L symlinkat    H chdir    F fchdir    P prctl    K flock    Y futimens, now
    N fsopen    G fsconfig    E fsmount    I posix_fadvise
    B WORD, Z NAME=VALUE    the next word, and a variable, of the FUSE program
    S PATH REGISTER         executes it in a session of its own; it has the image, and the register
    j WHICH TYPE            setns(2): 0 the set's mount namespace, 1 its user namespace, 2 its owner
    J                       waits until it has gone to the background
    In a path \1 is the id of this process, \2N\2 the descriptor in register N.

The end: the program's environment, in this order, and what reads the rest of it
    f NAME VALUE    a variable that is first, if the caller has not set it
    v NAME          one of the caller's that is left out
    = NAME VALUE    one that is set
    z               from here on: with what the image's scripts export, for the program itself
    X PATH          the image's action, executed where no program is found by the PATH
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Record = tuple[str | bytes | int, ...]  # the letter, and its fields

MAGIC = b"singrun launch 1\n"
FIELDS = (
    "q2k1e2n1h1p2i2g1c1b1s3o2d2r2x0t3a1m1.0U1O5R5T4M4A3Q5u2V2W2C1D3L3H1F1P3K2Y1"
    "N2G4E3I4B1Z1S2J0j2v1f2=2z0X1"
)
LARGEST = 1 << 16  # bytes
MOST_WORDS = 16  # before the program
_SECOND = 1_000_000_000  # ns
_COUNTS = {FIELDS[at]: int(FIELDS[at + 1]) for at in range(0, len(FIELDS), 2)}


def identity(status: os.stat_result, *, whole: bool) -> str:
    """Tell a file from all others; whole: and from itself before it changed, but for its owner.

    In a user namespace the owner has another number; a change of it changes st_ctime.
    """
    start = f"{status.st_dev} {status.st_ino} {status.st_mode}"
    if not whole:
        return f"{start} {status.st_uid} {status.st_gid}"
    return f"{start} {status.st_size} {_time(status.st_mtime_ns)} {_time(status.st_ctime_ns)}"


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds // _SECOND}.{nanoseconds % _SECOND:09}"


def encoded(records: "Iterable[Record]") -> bytes:
    """Return the bytes of a recording. ValueError: a field that it cannot hold."""
    data = bytearray()
    for letter, *fields in records:
        if _COUNTS[str(letter)] != len(fields):
            raise ValueError(letter)
        for each in (letter, *fields):
            word = each if isinstance(each, bytes) else os.fsencode(str(each))
            if b"\0" in word:
                raise ValueError(letter)
            data += word + b"\0"
    return MAGIC + f"{hashed(data):016x}".encode() + data


def hashed(data: "bytes | bytearray") -> int:
    """Return the FNV-1a hash of ``data`` in 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def ranks_name(words: "list[str]") -> str:
    """Return the name of the link that says which variables tell these words' sets apart."""
    return f"ranks-{hashed(_ended(words)):016x}"


def set_name(words: "list[str]", cwd: str, pwd: str, values: "list[str]") -> str:
    """Return the name of the recording of a set. values: of the variables in that link."""
    return f"set-{hashed(_ended([cwd, pwd, *words, *values])):016x}"


def name_of(words: "list[str]", cwd: str, pwd: str) -> str:
    """Return the name of the file that has the recording of these words in this directory."""
    return f"{hashed(_ended([cwd, pwd, *words])):016x}"


def _ended(words: "list[str]") -> bytes:
    return b"".join(os.fsencode(each) + bytes(1) for each in words)
