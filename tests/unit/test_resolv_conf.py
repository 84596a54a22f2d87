"""The host's DNS search domains: reading resolv.conf, and passing the domains to guests."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.kit import search_domains
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


def test_search_domains_are_in_the_identity_and_reach_clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_tar(hostname="one\n")
    request = BootRequest(identity=lambda endpoint: plain)
    monkeypatch.setattr(search_domains, "host_domains", list)
    assert search_domains.identity(request, ENDPOINT) == plain
    monkeypatch.setattr(search_domains, "host_domains", lambda: ["corp.example", "lab.example"])
    full = search_domains.identity(request, ENDPOINT)
    with tarfile.open(fileobj=io.BytesIO(full)) as archive:
        found = archive.extractfile(search_domains.MEMBER)
        assert found
        assert found.read() == b"corp.example lab.example\n"
        assert "hostname" in archive.getnames()
    assert b"put search 'corp.example lab.example\n'" in activation_script(full, seed=make_tar(), now=0)
