from __future__ import annotations

from ipaddress import ip_network

import pytest

from task_queue_engine.handlers.fetch.address_policy import AddressPolicy

PUBLIC = ["1.1.1.1", "93.184.215.14", "172.32.0.1", "192.0.1.1", "223.255.255.255"]
PUBLIC_V6 = ["2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2001:4860:4860::8888"]


@pytest.mark.parametrize("address", PUBLIC + PUBLIC_V6)
def test_public_hosts_may_be_reached(address: str) -> None:
    assert AddressPolicy().refusal(address, 443) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "a loopback address"),
        ("127.255.255.254", "a loopback address"),
        ("0.0.0.0", "an unspecified address"),
        ("0.1.2.3", "an unspecified address"),
        ("10.0.0.1", "a private address"),
        ("172.16.0.1", "a private address"),
        ("172.31.255.255", "a private address"),
        ("192.168.1.1", "a private address"),
        ("169.254.169.254", "a link-local address"),  # cloud metadata
        ("100.64.0.1", "a shared (carrier-grade NAT) address"),
        ("100.100.100.200", "a shared (carrier-grade NAT) address"),  # cloud metadata
        ("168.63.129.16", "a cloud platform address"),
        ("192.0.0.192", "a reserved address"),
        ("192.0.2.1", "a documentation address"),
        ("198.18.0.1", "a benchmarking address"),
        ("198.19.255.255", "a benchmarking address"),
        ("198.51.100.1", "a documentation address"),
        ("203.0.113.1", "a documentation address"),
        ("192.88.99.1", "a 6to4 relay address"),
        ("224.0.0.1", "a multicast address"),
        ("239.255.255.255", "a multicast address"),
        ("240.0.0.1", "a reserved address"),
        ("255.255.255.255", "a reserved address"),
        ("::", "an unspecified address"),
        ("::1", "a loopback address"),
        ("::7f00:1", "a reserved address"),  # IPv4-compatible
        ("::ffff:127.0.0.1", "an IPv4-mapped address"),
        ("::ffff:1.1.1.1", "an IPv4-mapped address"),
        ("64:ff9b::7f00:1", "a NAT64 address"),
        ("64:ff9b:1::a00:1", "a NAT64 address"),
        ("2002:7f00:1::", "a 6to4 address"),
        ("2001:0:7f00:1::", "a Teredo address"),
        ("2001:10::1", "a reserved address"),
        ("2001:db8::1", "a documentation address"),
        ("3fff::1", "a documentation address"),
        ("fc00::1", "a private address"),
        ("fd00:ec2::254", "a private address"),  # cloud metadata
        ("fe80::1", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("fec0::1", "a reserved address"),
        ("ff02::1", "a multicast address"),
        ("100::1", "a reserved address"),
        ("5f00::1", "a reserved address"),
    ],
)
def test_special_addresses_are_refused_with_their_kind(address: str, kind: str) -> None:
    assert AddressPolicy().refusal(address, 443) == kind


def test_public_hosts_are_reached_on_the_ports_of_the_web_only() -> None:
    assert AddressPolicy().refusal("1.1.1.1", 80) is None
    refusal = AddressPolicy().refusal("1.1.1.1", 25)
    assert refusal == "port 25, and only 80, 443 may be used"
    assert AddressPolicy(ports=frozenset({8443})).refusal("1.1.1.1", 8443) is None


def test_an_allowed_network_is_open_on_any_port_and_nothing_beside_it() -> None:
    policy = AddressPolicy(allow_networks=(ip_network("10.1.0.0/16"), ip_network("fd12::/16")))
    assert policy.refusal("10.1.2.3", 9000) is None
    assert policy.refusal("fd12::5", 9000) is None
    assert policy.refusal("10.2.0.1", 80) == "a private address"
    assert policy.refusal("::ffff:10.1.2.3", 80) == "an IPv4-mapped address"
