"""Addresses that requests come from, and the networks of providers."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# ::ffff:0:0/96, by which a socket that takes both kinds shows an IPv4 address (RFC 4291, 2.5.5.2).
_MAPPED_BITS: Final = 96


def read_address(text: str) -> Address | None:
    """Return an address, one mapped to IPv6 as the IPv4 that it is, or None for what is none."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_network(text: str) -> Network:
    """Return a network, one mapped to IPv6 as the IPv4 that it is. Raises `ValueError`."""
    network = ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def holds(networks: Iterable[Network] | None, address: str | None) -> bool:
    """Tell whether an address is in one of some networks; any is, and also none at all, where no networks are named.

    Of a Unix socket there is no address, or an empty one.
    """
    if not networks:
        return True
    known = read_address(address or "")
    return known is not None and any(known in network for network in networks)
