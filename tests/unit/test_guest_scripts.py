"""The shell that goes into the guest: POSIX, clean by shellcheck, and every file of the manifest well-formed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.image import rootfs
from pymachine.image.tree import Tree
from pymachine.run import run

SCRIPTS = sorted(
    path
    for path in rootfs.HERE.rglob("*")
    if path.is_file()
    and (path.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/busybox sh", b"# shellcheck shell=sh")))
)


def test_the_guest_has_scripts() -> None:
    assert {"init", "boot", "channel", "identity", "disk", "docker"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path: Path) -> None:
    run(["shellcheck", "-s", "sh", "-x", "-P", rootfs.OVERLAY, "-e", "SC1091", path])


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"]], ids=lambda words: words[0])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_read_by_the_shells_that_matter(path: Path, shell: list[str]) -> None:
    run([*shell, "-n", path])


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name != "common"], ids=lambda path: path.name)
def test_scripts_can_be_run(path: Path) -> None:
    assert path.stat().st_mode & 0o100


def test_secret_files_are_private_and_sudo_is_setuid() -> None:
    tree = Tree()
    rootfs.overlay(tree, rootfs.OVERLAY, {})
    lines = rootfs.MANIFEST.read_text()
    # What packages bring is not there in this test.
    rootfs.apply_manifest(tree, "\n".join(line for line in lines.splitlines() if "sudo" not in line.split("/")[-1]))
    assert tree["etc/shadow"].mode == 0o600
    assert "4755 0 0 /usr/bin/sudo" in lines
    assert tree["home/docker"].uid == 1000
    assert tree["usr/sbin/init"].target == "../bin/busybox"


def test_nobody_in_the_guest_has_a_password() -> None:
    for line in (rootfs.OVERLAY / "etc" / "shadow").read_text().splitlines():
        assert line.split(":")[1] == "*", line
