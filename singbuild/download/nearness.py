"""How near an address is to this machine, by its name or its number."""

from __future__ import annotations

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ANYWHERE, PRIVATE, LINK, HERE = range(4)
"""How near an address is. LINK: link-local, where clouds serve secrets; HERE: this machine."""
# RFC 6052 section 2.1: a translator sends it on to the IPv4 address in its last 32 bits.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without port, is this machine itself."""
    return of_name(host) == HERE


def of_name(host: str) -> int:
    """Return how near a host is by its name or address; nobody is asked what a name stands for."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        address: Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001
        except (OSError, UnicodeError):
            return HERE if host == "localhost" or host.endswith(".localhost") else ANYWHERE
    return of_address(address)


def of_address(address: Address) -> int:
    """Return how near an address is, also one of IPv4 that is written as one of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return of_address(inner)
    if address.is_loopback or address.is_unspecified:
        return HERE
    if address.is_link_local:
        return LINK
    return ANYWHERE if address.is_global else PRIVATE
