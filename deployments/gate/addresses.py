"""The ways to write one internet address: `2852039166`, `0xa9fea9fe` and `::ffff:a9fe:a9fe` are all 169.254.169.254."""

import ipaddress
import socket

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LAST = 0xFFFFFFFF


def spellings(host: str) -> tuple[str, ...]:
    """The usual spellings of what `host` may lead to when it is a number; empty for a name.

    An IPv6 address that carries one of IPv4 leads to both.
    """
    text = host.partition("%")[0]
    if ":" in text:
        try:
            return _of_v6(ipaddress.IPv6Address(text))
        except ValueError:
            return ()
    if not text or not text.isascii() or text.split() != [text]:
        return ()
    try:
        # As programs read it: up to four parts, each decimal, octal or hexadecimal, the last of any size.
        return (str(ipaddress.IPv4Address(socket.inet_aton(text))),)
    except OSError:
        return ()


def _of_v6(address: ipaddress.IPv6Address) -> tuple[str, ...]:
    within = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE:
        within.append(ipaddress.IPv4Address(int(address) & _LAST))
    return (str(address), *(str(each) for each in within if each is not None))
