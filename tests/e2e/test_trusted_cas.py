"""Pulls from a registry under a company's own CA, which the machine trusts by `--ca-cert` or config.toml."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.store import paths
from support import images, registry as registries
from support.registry import USER_NETWORK_HOST, Registry
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

NAME = "trusting"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry with a certificate of a private CA, and an image in it."""
    with tempfile.TemporaryDirectory(prefix="pm-registry-") as data, registries.under_private_ca(Path(data)) as running:
        running.push("team/alpine", ["1"], images.alpine_like("1", packages="http://none.invalid"), images.config())
        yield running


def docker(program: Pymachine, command: str, *, code: int | None = 0) -> str:
    script = f'set -e\neval "$(pymachine env --shell bash {NAME})"\n{command}'
    return program.run(["bash", "-c", script], code=code).text


def test_a_registry_of_a_private_ca_is_trusted(registry: Registry) -> None:
    image = f"{USER_NETWORK_HOST}:{registry.port}/team/alpine:1"
    pull = f"docker rmi {image} > /dev/null 2>&1 || true; docker pull -q {image}"
    started = "docker inspect -f '{{.State.StartedAt}} {{.State.Pid}} {{.State.Running}}' kept"
    with private_store() as program:
        program("create", "--no-share", "--ca-cert", str(registry.ca), NAME)
        assert image in docker(program, pull)
        docker(program, f"docker run -d --name kept {image} sleep 100000")
        before = docker(program, started)
        assert before.endswith(" true\n")
        # Without it, pulls are refused, and with it they work again. No container is restarted.
        program("modify", "--ca-cert", "", NAME)
        assert docker(program, started) == before
        refused = docker(program, f"docker pull -q {image.replace(':1', ':2')}", code=1)
        assert "certificate signed by unknown authority" in refused
        program("modify", "--ca-cert", str(registry.ca), NAME)
        assert docker(program, started) == before
        assert "not found" in docker(program, f"docker pull -q {image.replace(':1', ':2')}", code=1)
        # The engine's settings are as before: it does not keep containers alive by default.
        assert docker(program, "docker info -f '{{.LiveRestoreEnabled}}'") == "false\n"
        # The containers' processes can still be used.
        assert docker(program, "docker exec kept echo used") == "used\n"
        # config.toml is for all machines, and in force at the next start.
        program("modify", "--ca-cert", "", NAME)
        (program.store / paths.USER_CONFIG).write_text(f'[certificates]\nca = ["{registry.ca}"]\n')
        program("restart", NAME)
        assert "not found" in docker(program, f"docker pull -q {image.replace(':1', ':2')}", code=1)
