"""A project with a real machine, from `up` to `down --remove`."""

from __future__ import annotations

from pymachine.driver.kit.host_memory import default_mib
from support.runner import Pymachine

# The default memory, for which there is a template.
MEMORY = default_mib()
OTHER_MEMORY = 1200
FILE = f"""
[machine]
memory = {MEMORY}
provision = ["setup.sh"]
"""
ENGINE = """
[machine.engine]
label = ["project=shop"]
"""
SETUP = """#!/bin/bash
set -euo pipefail
echo "set up by $(id -un) in $PWD"
echo ran >> count
"""


def test_a_project_from_up_to_down(pymachine: Pymachine) -> None:
    folder = pymachine.home / "shop"
    folder.mkdir()
    path = folder / "pymachine.toml"
    path.write_text(FILE + ENGINE)
    (folder / "setup.sh").write_text(SETUP)

    def up(*words: str) -> str:
        return pymachine("up", "--file", str(path), *words).stdout

    made = up()
    assert f"Using {path}\n" in made
    assert f"set up by root in {folder}\n" in made
    assert (folder / "count").read_text() == "ran\n"
    assert pymachine("ssh", "shop", "docker info --format '{{.Labels}}'").stdout.count("project=shop") == 1
    assert "set up by" not in up()
    pymachine("ssh", "shop", "sudo mount -o remount,noexec /tmp")
    assert f"set up by root in {folder}\n" in up("--provision")
    path.write_text(FILE.replace(str(MEMORY), str(OTHER_MEMORY)) + ENGINE)
    assert f'is {OTHER_MEMORY}, but the machine "shop" has {MEMORY}.' in up()
    pymachine("down", "--file", str(path))
    assert pymachine("status", "shop").stdout == "Stopped\n"
    assert "but the machine" not in up("--apply")
    memory = pymachine("ssh", "shop", "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").stdout
    assert 1024 * 1024 < int(memory) < OTHER_MEMORY * 1024
    assert (folder / "count").read_text() == "ran\nran\n"
    pymachine("down", "--remove", "--file", str(path))
    assert pymachine("ls", "-q").stdout == ""


def test_run_with_a_project(pymachine: Pymachine) -> None:
    folder = pymachine.home / "shop"
    folder.mkdir()
    (folder / "pymachine.toml").write_text(FILE)
    (folder / "setup.sh").write_text(SETUP)
    outcome = pymachine("run", "--file", str(folder / "pymachine.toml"), "--", "sh", "-c", "echo $DOCKER_HOST")
    assert outcome.stdout.startswith("tcp://")
    assert f"set up by root in {folder}\n" in outcome.stderr
    assert pymachine("ls", "-q").stdout == ""
