"""A machine of another architecture than the host's, with its own kernel and QEMU."""

from __future__ import annotations

import pytest

from support.runner import Pymachine


@pytest.mark.timeout(1500)
def test_an_arm64_machine_boots_and_its_engine_answers(pymachine: Pymachine) -> None:
    pymachine("create", "--qemu-arch", "arm64", "arm", timeout=1400)
    assert pymachine("ssh", "arm", "uname -m").stdout == "aarch64\n"
    assert pymachine("ssh", "arm", "docker info --format '{{.Architecture}} {{.Name}}'").stdout == "aarch64 arm\n"
    pymachine("rm", "-y", "arm")
    assert pymachine.remaining_processes() == {}
