"""The host's DNS search domains and its hosts file: reading them, and passing them to guests."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.kit import host_names, name_resolution, search_domains
from pymachine.driver.kit.identity_channel import activation_script

ENDPOINT = Endpoint("127.0.0.1", docker_port=1, ssh_port=2)


def make_tar(**members: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("nameserver 192.0.2.1\n", []),
        ("search corp.example lab.example\n", ["corp.example", "lab.example"]),
        ("domain corp.example other.example\n", ["corp.example"]),
        # The last line holds, as resolv.conf(5) has it.
        ("search a.example\ndomain b.example\n", ["b.example"]),
        ("domain b.example\nsearch a.example\n", ["a.example"]),
        ("search corp.example. corp.example\n", ["corp.example"]),
        ("search .\n", []),  # systemd-resolved's way of saying none
        ("search _msdcs.corp.example x--y.example\n", ["_msdcs.corp.example", "x--y.example"]),
        ("# search a.example\n; search b.example\nsearch\n", []),
        ("search $(reboot) a.example 'b c' -x.example a..b é.example\n", ["a.example"]),
        (f"search {'a' * 64}.example {'.'.join(['abcdefg'] * 40)} b.example\n", ["b.example"]),
    ],
)
def test_search_domains_are_read_from_resolv_conf(text: str, expected: list[str]) -> None:
    assert search_domains.parse(text) == expected


@given(st.text() | st.lists(st.from_regex(r"[a-z]{1,60}\.example", fullmatch=True), max_size=99).map(" ".join))
def test_any_resolv_conf_gives_a_short_list_of_plain_names(text: str) -> None:
    domains = search_domains.parse(f"search {text}")
    assert len(domains) <= search_domains.MOST_DOMAINS
    assert len(" ".join(domains)) <= search_domains.MOST_BYTES
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", domain) for domain in domains)


def test_without_resolv_conf_there_are_no_search_domains(tmp_path: Path) -> None:
    assert search_domains.host_domains(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "entries", "own"),
    [
        ("", [], []),
        ("192.0.2.7 wiki.corp.example wiki # the wiki\n", ["192.0.2.7 wiki.corp.example wiki"], []),
        ("2001:DB8:0::7\twiki\n", ["2001:db8::7 wiki"], []),
        ("127.0.0.1 localhost shop.test\n127.0.1.1 laptop\n::1 laptop ip6-loopback\n", [], ["shop.test", "laptop"]),
        ("255.255.255.255 broadcasthost\nfe80::1%lo0 localhost\nff02::1 ip6-allnodes\n", [], []),
        ("fe80::1%eth0 neighbour\nff02::1 group\n", [], []),
        # What Docker Desktop writes there is the host's own view of its virtual machine.
        ("192.0.2.1 host.docker.internal gateway.docker.internal\n", [], []),
        ("0.0.0.0 ads.example\n", ["0.0.0.0 ads.example"], []),
        ("192.0.2.7 $(reboot) 'a b' -x a..b \x00 good é.example\n", ["192.0.2.7 good"], []),
        ("192.0.2.300 a\n192.0.2 b\nc 192.0.2.7\n192.0.2.7\n#192.0.2.7 d\n", [], []),
        ("127.0.0.1 a.localhost localhost.localdomain localhost6 LOCALHOST\n", [], []),
    ],
)
def test_names_are_read_from_a_hosts_file(text: str, entries: list[str], own: list[str]) -> None:
    found = host_names.parse(text)
    assert (list(found.entries), list(found.own)) == (entries, own)


@given(st.text() | st.lists(st.from_regex(r"(127\.0\.0\.1|10\.0\.0\.9) [ -~]{1,60}", fullmatch=True)).map("\n".join))
def test_any_hosts_file_gives_plain_names(text: str) -> None:
    found = host_names.parse(text)
    assert len(found.own) <= host_names.MOST_OWN_NAMES
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in found.own)
    assert all(re.fullmatch(r"[0-9a-f:.]+( [A-Za-z0-9_.-]+)+", entry) for entry in found.entries)


def test_a_long_hosts_file_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("".join(f"192.0.2.7 name{number}\n127.0.0.1 own{number}\n" for number in range(100000)))
    found = host_names.host_names(path)
    assert len(found.entries) == host_names.MOST_ENTRIES
    assert len("\n".join(found.entries)) <= host_names.MOST_BYTES
    assert len(found.own) == host_names.MOST_OWN_NAMES


def test_a_long_list_of_blocked_names_costs_no_more_than_its_first_names(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def is_name(name: str) -> bool:
        checked.append(name)
        return True

    monkeypatch.setattr(host_names, "is_name", is_name)
    found = host_names.parse("".join(f"127.0.0.1 ad{number}.example.com\n" for number in range(9999)))
    assert found.own == tuple(checked)
    assert len(checked) == host_names.MOST_OWN_NAMES


def test_without_a_hosts_file_there_are_no_names(tmp_path: Path) -> None:
    assert host_names.host_names(tmp_path / "none") == host_names.HostNames()


def test_the_hosts_names_are_in_the_identity_and_reach_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_tar(hostname="one\n")
    request = BootRequest(identity=lambda endpoint: plain)
    monkeypatch.setattr(search_domains, "host_domains", list)
    monkeypatch.setattr(host_names, "host_names", host_names.HostNames)
    assert name_resolution.identity(request, ENDPOINT) == plain
    monkeypatch.setattr(search_domains, "host_domains", lambda: ["corp.example", "lab.example"])
    text = "192.0.2.7 wiki\n192.0.2.8 shop\n127.0.0.1 laptop shop.test\n"
    monkeypatch.setattr(host_names, "host_names", lambda: host_names.parse(text))
    full = name_resolution.identity(request, ENDPOINT)
    expected = {
        "search": "corp.example lab.example\n",
        "host-names": "laptop shop.test\n",
        "hosts": "192.0.2.7 wiki\n192.0.2.8 shop\n",
    }
    script = activation_script(full, seed=make_tar(), now=0).decode()
    with tarfile.open(fileobj=io.BytesIO(full)) as archive:
        assert "hostname" in archive.getnames()
        for name, content in expected.items():
            found = archive.extractfile(name)
            assert found
            assert found.read().decode() == content
            assert f"put {name} '{content}'" in script
