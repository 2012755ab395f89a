"""A line in the host's log for each launch, where the site asks for it. Imported only then.

syslog(3) has this protocol: a datagram to a Unix socket, which journald and every syslogd take, and
where nothing waits for an answer. A log that does not listen stops nobody.
"""

import os
from _socket import AF_UNIX, SOCK_DGRAM, SOCK_NONBLOCK, socket  # socket itself imports a dozen

_PRIORITY = 1 << 3 | 6  # facility user, severity info: what an ordinary user may say


def send(place: str, image: str, words: "list[str]") -> None:
    """Log who runs what. place: of the socket. words: the verb and the program."""
    command = " ".join(ascii(word)[1:-1] for word in words)  # no line of its own in the log
    text = f"<{_PRIORITY}>singrun[{os.getpid()}]: uid={os.getuid()} image={image!a} {command}"
    sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK)
    try:
        sender.sendto(text.encode()[:2000], place)
    except OSError:
        pass
    finally:
        sender.close()
