"""The settings that the guest starts dockerd with: flags merged into daemon.json by the guest's own jq program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pymachine.image
from pymachine.docker import daemon_json
from support.runner import search_path

PROGRAM = Path(pymachine.image.__file__).parent / "rootfs" / "root" / "usr" / "lib" / "pymachine" / "engine.jq"


def merged(settings: dict[str, Any], *words: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    jq = shutil.which("jq", path=search_path())
    assert jq, "jq is missing: scripts/setup --tests"
    flags = folder / "flags"
    flags.write_text("".join(f"{word}\n" for word in words))
    argv = [jq, "-r", "--rawfile", "words", str(flags), "-f", str(PROGRAM)]
    said = subprocess.run(argv, input=json.dumps(settings), capture_output=True, text=True, check=True).stdout
    first, *rest = said.splitlines()
    return json.loads(first), rest


@pytest.mark.parametrize(
    ("settings", "words", "expected"),
    [
        # What docker-machine writes on a machine that has the same things in daemon.json.
        (
            {"labels": ["a=b", "provider=qemu"], "registry-mirrors": ["http://m1"]},
            [
                "--label",
                "c=d",
                "--label",
                "provider=generic",
                "--registry-mirror",
                "http://m2",
                "--registry-mirror=http://m1",
            ],
            {"labels": ["a=b", "c=d", "provider=generic"], "registry-mirrors": ["http://m2", "http://m1"]},
        ),
        ({"insecure-registries": ["r:1"]}, ["--insecure-registry", "r:1"], {"insecure-registries": ["r:1"]}),
        ({"labels": ["a=1"]}, ["--label", "a=2", "--label", "a=3"], {"labels": ["a=3"]}),
        ({"dns": ["192.0.2.1"]}, ["--dns=192.0.2.2"], {"dns": ["192.0.2.1", "192.0.2.2"]}),
        ({"storage-driver": "vfs"}, ["--storage-driver", "overlay2"], {"storage-driver": "overlay2"}),
        ({"storage-driver": "vfs"}, ["-s", "overlay2"], {"storage-driver": "overlay2"}),
        ({"log-level": "info"}, ["-lwarn"], {"log-level": "warn"}),
        ({"debug": False}, ["-D"], {"debug": True}),
        ({"icc": True}, ["--icc=false", "--ipv6"], {"icc": False, "ipv6": True}),
        ({"debug": False}, ["--debug=true"], {"debug": True}),
        ({"live-restore": False}, ["--live-restore=1"], {"live-restore": True}),
        ({"live-restore": True}, ["--live-restore=0"], {"live-restore": False}),
        ({"mtu": 1500}, ["--mtu", "1400"], {"mtu": 1400}),
        ({"data-root": "/a"}, ["--data-root=/b"], {"data-root": "/b"}),
        ({"data-root": "/a"}, ["--graph", "/b"], {"data-root": "/b"}),
        ({"hosts": ["tcp://0:1"]}, ["--host=unix:///s", "-H", "fd://"], {"hosts": ["tcp://0:1", "unix:///s", "fd://"]}),
        (
            {"log-opts": {"max-size": "1m", "tag": "x"}},
            ["--log-opt", "max-size=2m", "--log-opt=labels=a=b"],
            {"log-opts": {"max-size": "2m", "tag": "x", "labels": "a=b"}},
        ),
        (
            {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}},
            ["--default-ulimit", "core=-1", "--default-ulimit=nofile=3:4"],
            {
                "default-ulimits": {
                    "core": {"Name": "core", "Soft": -1, "Hard": -1},
                    "nofile": {"Name": "nofile", "Soft": 3, "Hard": 4},
                }
            },
        ),
        (
            {"runtimes": {"a": {"path": "/a"}}},
            ["--add-runtime", "b=/b"],
            {"runtimes": {"a": {"path": "/a"}, "b": {"path": "/b"}}},
        ),
    ],
)
def test_a_setting_given_twice_is_passed_once(
    settings: dict[str, Any], words: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    assert merged(settings, *words, folder=tmp_path) == (expected, [])


INIT = PROGRAM.parents[3] / "etc" / "init.d" / "docker"
FUNCTIONS = ("configured", "own_flags", "more_flags", "configure", "find_host")


def started_with(settings: dict[str, Any], *, profile: str = "", folder: Path) -> list[str]:
    """Return the flags that the guest's init script passes to dockerd, the content of --config-file among them."""
    blocks = [*INIT.read_text().split("\n\n"), *PROGRAM.with_name("resolver").read_text().split("\n\n")]
    script = "\n".join(block for block in blocks if block.startswith(tuple(f"{name}() {{" for name in FUNCTIONS)))
    jq = shutil.which("jq", path=search_path())
    assert jq, "jq is missing: scripts/setup --tests"
    script = script.replace("/usr/bin/jq", jq).replace("/usr/lib/pymachine/engine.jq", str(PROGRAM))
    script = script.replace("/run/gateway.", f"{folder}/gateway.")
    (folder / "daemon.json").write_text(json.dumps(settings) if settings else "")
    names = {"SETTINGS": "daemon.json", "FLAGS": "flags", "MERGED": "merged.json", "IDENTITY_DIR": "identity"}
    variables = {name: str(folder / file) for name, file in names.items()} | {"SOCKET": "/s"}
    subprocess.run(["dash", "-c", f"{script}\n{profile}\nconfigure"], env=variables, check=True)
    flags = (folder / "flags").read_text().splitlines()
    config = f"--config-file={folder / 'merged.json'}"
    return [(folder / "merged.json").read_text().strip() if flag == config else flag for flag in flags]


ALWAYS = ["--host=unix:///s", "--containerd=/run/containerd/containerd.sock"]


@pytest.mark.parametrize(
    ("settings", "profile", "expected"),
    [
        ({}, "", ["--data-root=/var/lib/docker", "--group=docker", *ALWAYS]),
        ({"data-root": "/mnt/sda1/d", "group": "users"}, "", ALWAYS),
        ({"data-root": "/mnt/sda1/d"}, "", ["--group=docker", *ALWAYS]),
        (
            {"data-root": "/a", "debug": True},
            "DOCKER_DIR=/b",
            [
                '{"data-root":"/b","debug":true,"group":"docker","hosts":["unix:///s"],'
                '"containerd":"/run/containerd/containerd.sock"}'
            ],
        ),
        ({}, "DOCKER_DIR=/b", ["--data-root=/var/lib/docker", "--group=docker", *ALWAYS, "--data-root=/b"]),
        (
            {"data-root": "/a"},
            "EXTRA_ARGS='--label c=d'",
            [
                '{"data-root":"/a","group":"docker","hosts":["unix:///s"],'
                '"containerd":"/run/containerd/containerd.sock","labels":["c=d"]}'
            ],
        ),
    ],
)
def test_the_guest_passes_the_image_folder_and_group_of_daemon_json(
    settings: dict[str, Any], profile: str, expected: list[str], tmp_path: Path
) -> None:
    """The image folder and the group of daemon.json hold, unless the profile names others."""
    assert started_with(settings, profile=profile, folder=tmp_path) == expected


def test_the_engines_host_gateway_is_the_router_of_the_first_interface(tmp_path: Path) -> None:
    (tmp_path / "gateway.eth0").write_text("\n")
    (tmp_path / "gateway.eth1").write_text("192.0.2.1\n")
    (tmp_path / "gateway.eth2").write_text("192.0.2.2\n")
    assert "--host-gateway-ip=192.0.2.1" in started_with({}, folder=tmp_path)
    own = {"host-gateway-ip": "192.0.2.9"}
    assert started_with(own, folder=tmp_path) == ["--data-root=/var/lib/docker", "--group=docker", *ALWAYS]


def test_flags_without_a_daemon_json_key_stay_flags_and_win(tmp_path: Path) -> None:
    settings = {"tlscacert": "/a", "future": {"b": 1}, "labels": ["x=y"]}
    words = ["--tlscacert", "/b", "--tlsverify", "--future=c", "--new", "value", "--validate", "--label=x=z"]
    assert merged(settings, *words, folder=tmp_path) == ({"labels": ["x=z"]}, words[:-1])


def keep_containers(folder: Path, *, then: str, jq: str = "") -> str:
    """Let the guest set live-restore in daemon.json, `then` do something, and return what is in the file after that."""
    found = shutil.which("jq", path=search_path())
    assert found, "jq is missing: scripts/setup --tests"
    names = ("keep_containers() {", "restore_settings() {")
    script = "\n".join(block for block in INIT.read_text().split("\n\n") if block.startswith(names))
    script = script.replace("/usr/bin/jq", jq or found)
    variables = {"SETTINGS": str(folder / "daemon.json"), "MERGED": str(folder / "none"), "PATH": os.environ["PATH"]}
    script = f"{script}\nreload_engine() {{ {then}; }}\nswitched_off() {{ kill -9 $$; }}\nkeep_containers"
    subprocess.run(["busybox", "ash", "-c", script], env=variables, check=False)
    return (folder / "daemon.json").read_text()


def test_the_users_settings_survive_a_restart_of_the_engine(tmp_path: Path) -> None:
    target, link = tmp_path / "own.json", tmp_path / "daemon.json"
    text = '{ "debug":   true }'
    target.write_text(text)
    target.chmod(0o640)
    link.symlink_to(target)
    assert keep_containers(tmp_path, then=f"cp {link} {tmp_path}/seen") == text
    assert json.loads((tmp_path / "seen").read_text()) == {"debug": True, "live-restore": True}
    # Switched off while jq runs, and while the engine has the changed file.
    assert keep_containers(tmp_path, then="true", jq="switched_off") == text
    keep_containers(tmp_path, then="switched_off")
    script = INIT.read_text()
    assert re.search(r"^prepare\(\) \{[^}]* restore_settings\n[^}]*running ", script, re.MULTILINE)
    (block,) = (block for block in script.split("\n\n") if block.startswith("restore_settings() {"))
    for _ in range(2):
        subprocess.run(["busybox", "ash", "-c", f"{block}\nrestore_settings"], env={"SETTINGS": str(link)}, check=True)
        assert link.is_symlink()
        assert target.read_text() == text
    assert target.stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / "daemon.json.renew").exists()


def test_the_guest_and_the_host_have_the_same_table_of_flags() -> None:
    """The table of dockerd's flags exists in Python and in jq."""
    text = PROGRAM.read_text()

    def words(name: str) -> set[str]:
        found = re.search(rf"^def {name}: \[(.*?)\];", text, re.DOTALL | re.MULTILINE)
        assert found
        return set(re.findall(r'"([^"]+)"', found[1]))

    def table(name: str) -> dict[str, str]:
        found = re.search(rf"^def {name}: (\{{.*?\}});", text, re.DOTALL | re.MULTILINE)
        assert found
        known: dict[str, str] = json.loads(found[1])
        return known

    assert table("lists") == {**daemon_json._LISTS, "host": "hosts"}
    assert table("maps") == {**daemon_json._MAPS, "default-ulimit": "default-ulimits", "add-runtime": "runtimes"}
    assert words("numbers") == daemon_json._NUMBERS
    assert words("booleans") == daemon_json._BOOLEANS
    assert words("texts") == daemon_json._TEXTS | {"containerd", "data-root"}
    assert table("long") == {"graph": "data-root", **daemon_json._SHORT}
