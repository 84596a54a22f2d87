"""Many `create` at once on an empty store: all succeed, and shared files are made once."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.runner import Outcome, Pymachine, cache_folder

COUNT = 20
# Twenty emulated guests may share two cores, so each boot takes long.
BOOT_SECONDS = {"PYMACHINE_BOOT_TIMEOUT": "2400"}
NEEDED_GIB = 8
ANSWER = """set -e; docker info --format '{{.Name}}'
cat /etc/machine-id; cat /var/lib/boot2docker/ssh/ssh_host_ed25519_key.pub"""
# Runs a container, which takes four seconds of processor time in emulation.
CONTAINER = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
tar -c -C /tmp/box . | docker import - box:1 > /dev/null; docker run --rm --uts host box:1 /bin/busybox hostname"""


def available_gib() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def empty_cache(program: Pymachine) -> Path:
    """Let `program` use a cache without images, but with the packages that all tests share."""
    cache = program.home.parent / "cache"
    cache.mkdir()
    packages = cache_folder() / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    (cache / "packages").symlink_to(packages)
    program.env["PYMACHINE_CACHE"] = str(cache)
    return cache


@pytest.mark.timeout(2700)
def test_twenty_creates_at_once_succeed(pymachine: Pymachine) -> None:
    """There is one CA, client certificate, image and template, and twenty machines with different identities."""
    if available_gib() < NEEDED_GIB:
        pytest.skip(f"{COUNT} guests need {NEEDED_GIB} GiB of memory")
    names = [f"m{number}" for number in range(COUNT)]

    cache = empty_cache(pymachine)

    def create(name: str) -> Outcome:
        words = ("create", "--qemu-memory", "512", "--qemu-cpu-count", "1", name)
        return pymachine(*words, code=None, env=BOOT_SECONDS, timeout=2600)

    with ThreadPoolExecutor(COUNT) as pool:
        outcomes = list(pool.map(create, names))

    failed = [f"--- {name}: {made.text}" for name, made in zip(names, outcomes, strict=True) if made.code]
    assert not failed, "\n".join(failed) + pymachine.guest_logs(5)
    assert sum("Building" in made.text for made in outcomes) <= 1
    assert sum("Waiting for the template to start" in made.text for made in outcomes) == 1
    assert not any("booting from power-on" in made.text for made in outcomes)
    assert len(list((cache / "templates").glob("*/template.json"))) == 1
    assert len(list((cache / "images").glob("*/manifest.json"))) == 1
    machines = [pymachine.store / "machines" / name for name in names]
    for shared in ("ca.pem", "cert.pem", "key.pem"):
        assert {(machine / shared).read_bytes() for machine in machines} == {
            (pymachine.store / "certs" / shared).read_bytes()
        }
    assert not list((pymachine.store / "certs").glob("*.old*"))
    records = [json.loads((machine / "config.json").read_text()) for machine in machines]
    assert len({record["Driver"]["IPAddress"] for record in records}) == COUNT
    for own in ("server.pem", "ssh_host_ed25519_key", "machine-id"):
        assert len({(machine / own).read_bytes() for machine in machines}) == COUNT

    def answer(name: str) -> list[str]:
        return pymachine("ssh", name, ANSWER, code=None).stdout.split()

    # `create` has checked each certificate. A login costs seconds in emulation, so only some guests are asked further.
    asked = machines[::6]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(answer, [machine.name for machine in asked]))
    # The answer has the guest's host name (from its engine), its machine-id and its pinned host key.
    for machine, output in zip(asked, answers, strict=True):
        assert output[:2] == [machine.name, (machine / "machine-id").read_text().strip()]
        assert output[3] == (machine / "known_hosts").read_text().split()[2]
    for name in (names[0], names[-1]):
        assert pymachine("ssh", name, CONTAINER).stdout == f"{name}\n"

    pymachine("rm", "-y", *names)
    assert pymachine("ls", "-q").stdout == ""
    assert pymachine.remaining_processes() == {}
