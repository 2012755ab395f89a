"""What --add-caps, --drop-caps and --no-privs leave a program. capabilities(7).

An ordinary user's are good in his own user namespace only: for his own files and processes.
"""

from singrun import syscalls
from singrun.errors import RunError, nearest
from singrun.request import IsolationOptions

NAMES = (  # <linux/capability.h>, in the order of their numbers
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
ALL = "all"


def parse(words: str) -> list[str]:
    """Return the names in a comma list, as NAMES has them, or ALL."""
    return [_name(word.strip()) for word in words.split(",") if word.strip()]


def _name(word: str) -> str:
    name = word.upper().removeprefix("CAP_")
    if word.lower() == ALL:
        return ALL
    if name in NAMES:
        return name
    guess = nearest(name, [*NAMES])
    why = f"Did you mean CAP_{guess}?" if guess else ""
    raise RunError(f"There is no capability {word}", why=why, remedy="See: man 7 capabilities")


def settle(isolation: IsolationOptions) -> None:
    """Keep what is added over execve(2), whatever the user id; lose what is dropped for good."""
    out = _numbers([ALL] if isolation.no_privs else isolation.drop_caps)
    _, permitted, inheritable = syscalls.capget()
    # setresuid(2) has cleared the effective set, and PR_CAPBSET_DROP needs CAP_SETPCAP of it. That
    # may be one of those to drop, so the bounding set goes before it: capabilities(7).
    syscalls.capset(permitted, permitted, inheritable)
    for number in out:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    rest = permitted & ~_bits(out)
    keep = [number for number in _numbers(isolation.add_caps) if rest >> number & 1]
    # An ambient capability has to be permitted and inheritable before it is raised:
    # capabilities(7).
    syscalls.capset(rest, rest, inheritable & rest | _bits(keep))
    for number in keep:
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def _bits(numbers: list[int]) -> int:
    return sum(1 << number for number in numbers)


def _numbers(names: list[str]) -> list[int]:
    """Return their numbers, without those that this kernel does not know."""
    numbers = [n for n, name in enumerate(NAMES) if ALL in names or name in names]
    return [number for number in numbers if _is_known(number)]


def _is_known(number: int) -> bool:
    try:
        return syscalls.prctl(syscalls.PR_CAPBSET_READ, number) >= 0
    except OSError:
        return False
