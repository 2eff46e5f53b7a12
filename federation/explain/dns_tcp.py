"""Checks of DNS and TCP: resolves the peer's host name and connects to the peer."""

import errno
import ipaddress
import selectors
import socket
import threading
import time
from typing import Any, Final

from federation.config import parse_address
from federation.errors import Action, Actor, ConfigError, Remedy
from federation.explain.checks import BrokenLink
from federation.explain.own_certificate import REPLACE_HINT
from federation.store.peers import PeerRecord

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""An address family, and an address as `socket` takes it."""

UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
RESOLVER_FAILS: Final = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL})
NO_ANSWER: Final = -1
"""The pseudo error number of a connection attempt without an answer."""


def resolve(record: PeerRecord, timeout_s: float) -> tuple[list[Address], str]:
    """Return the addresses of the endpoint's host, and a detail. Raises `BrokenLink` if there is no address."""
    try:
        host, port = parse_address(record.endpoint, "endpoint")
    except ConfigError as e:
        cause = f"the stored endpoint is not an address: {e}"
        raise BrokenLink(cause, _endpoint_hint(record), record.remedy(Action.REPLACE_PEER)) from None
    addresses = _addresses(record, host, port, timeout_s)
    if _is_ip(host):
        return addresses, f"{host} is an IP address; there is no name to look up"
    return addresses, f"{host} is {', '.join(str(address[0]) for _, address in addresses)}"


def connect(record: PeerRecord, addresses: list[Address], timeout_s: float) -> tuple[socket.socket, str]:
    """Connect to all addresses in parallel; return the first connection, and a detail. Raises `BrokenLink`."""
    deadline = time.monotonic() + timeout_s
    failed: dict[str, int] = {}
    with selectors.DefaultSelector() as selector:
        for family, address in addresses:
            _start_connect(selector, family, address, failed)
        try:
            while (left := deadline - time.monotonic()) > 0 and selector.get_map():
                for key, _ in selector.select(left):
                    number = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[union-attr]
                    selector.unregister(key.fileobj)
                    if not number:
                        return _connected(key.fileobj, key.data, failed)
                    failed[key.data] = number
                    key.fileobj.close()  # type: ignore[union-attr]
            failed |= {key.data: NO_ANSWER for key in selector.get_map().values()}
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise connect_failure(record, failed, timeout_s)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(record: PeerRecord, host: str, port: int, timeout_s: float) -> list[Address]:
    """Look up a name in a separate thread, because a call of the system's resolver cannot be cancelled."""
    found: list[list[Address] | OSError] = []

    def look_up() -> None:
        try:
            # As bytes: for text, Python first loads its IDNA tables, which would count as time of the look-up.
            entries = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys((family, address) for family, _, _, _, address in entries)))
        except OSError as e:
            found.append(e)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not found:
        raise BrokenLink(
            f"the look-up of {host} got no answer within {timeout_s:g} s",
            "check the name servers of this machine (/etc/resolv.conf) and its network",
        )
    result = found[0]
    if isinstance(result, list):
        return result
    raise resolve_failure(record, host, result)


def resolve_failure(record: PeerRecord, host: str, error: OSError) -> BrokenLink:
    """Return the cause and the remedy of a failed look-up."""
    if isinstance(error, socket.gaierror) and error.errno in RESOLVER_FAILS:
        return BrokenLink(
            f"the name {host} cannot be looked up at present: {error.strerror}",
            f"check the name servers of this machine (/etc/resolv.conf) and its network; {_endpoint_hint(record)}",
            record.remedy(Action.REPLACE_PEER),
        )
    cause = f"no machine has the name {host}: {error.strerror or error}"
    return BrokenLink(cause, _endpoint_hint(record), record.remedy(Action.REPLACE_PEER))


def _endpoint_hint(record: PeerRecord) -> str:
    return (
        f"ask the operator of {record.gateway} for its address; if {record.endpoint} is wrong, they set `advertise` in "
        f"gateway.toml and make a new token; then {REPLACE_HINT}"
    )


def _start_connect(
    selector: selectors.BaseSelector, family: socket.AddressFamily, address: tuple[Any, ...], failed: dict[str, int]
) -> None:
    shown = str(address[0])
    try:
        connection = socket.socket(family, socket.SOCK_STREAM)
    except OSError as e:  # such as IPv6 on a machine without IPv6
        failed[shown] = e.errno or errno.EAFNOSUPPORT
        return
    connection.setblocking(False)
    try:
        number = connection.connect_ex(address)
    except OSError:  # the address does not match the family
        number = errno.EADDRNOTAVAIL
    if number not in {0, errno.EINPROGRESS}:
        connection.close()
        failed[shown] = number
        return
    selector.register(connection, selectors.EVENT_WRITE, shown)


def _connected(connection: Any, shown: str, failed: dict[str, int]) -> tuple[socket.socket, str]:
    others = "".join(f"; {other}: {_describe_errno(number)}" for other, number in failed.items())
    return connection, f"{shown} port {connection.getpeername()[1]} accepts connections{others}"


def _describe_errno(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "refused"
    if number == NO_ANSWER:
        return "no answer"
    return errno.errorcode.get(number, str(number)) if number not in UNREACHABLE else "unreachable"


def connect_failure(record: PeerRecord, failed: dict[str, int], timeout_s: float) -> BrokenLink:
    """Return the most informative cause among the failed addresses.

    A refusal comes from the peer's machine; a timeout may come from any firewall before it.
    """
    numbers, port = set(failed.values()), record.endpoint.rpartition(":")[2]
    each = ", ".join(f"{address}: {_describe_errno(number)}" for address, number in failed.items())
    if errno.ECONNREFUSED in numbers:
        return BrokenLink(
            f"{record.endpoint} refuses connections ({each}): the machine answers, but nothing listens on port {port}",
            f"ask the operator of {record.gateway} whether its gateway listens on port {port}, and whether it runs",
            Remedy(action=Action.START_GATEWAY, actor=Actor.PEER_OPERATOR),
        )
    if NO_ANSWER in numbers or errno.ETIMEDOUT in numbers:
        return BrokenLink(
            f"{record.endpoint} does not answer ({each}, {timeout_s:g} s): a firewall drops the packets, "
            "or the machine is off",
            f"check the firewalls and the VPN between this machine and {record.gateway} for port {port}, "
            f"and ask the operator of {record.gateway} whether the machine is up",
        )
    if numbers & UNREACHABLE:
        return BrokenLink(
            f"this machine has no route to {record.endpoint} ({each})", "check this machine's network, VPN and routes"
        )
    return BrokenLink(
        f"cannot connect to {record.endpoint} ({each})",
        "check this machine's network and its firewall for outgoing connections",
    )
