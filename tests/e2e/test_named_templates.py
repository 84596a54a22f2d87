"""Named templates of a real machine: its images and containers are in each clone, and its keys in none."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from test_clones import IMPORT, with_shared_template

from pymachine.system import sparse_files
from pymachine.system.wait import until
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(2400)

PORT = 8120
PAGE = b"hello\n"
RUN = f"""docker run -d --name web -p {PORT}:80 --stop-signal KILL box:1 /bin/sh -c \
'mkdir /www; echo hello > /www/index.html; busybox httpd -f -p 80 -h /www' > /dev/null"""
HOOK = "echo 'echo I am $(hostname)' | sudo tee /var/lib/boot2docker/activated.sh > /dev/null"
PRIVATE = ("server-key.pem", "ssh_host_ed25519_key")


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    """A store with the machine `source`, its template `web`, and the clone `one` of that."""
    with private_store() as program:
        with_shared_template(program)
        # Booted, so that its devices differ from those of a clone. A machine that is built for a template is a clone.
        program(
            "create", "--no-share", "--no-template", "--qemu-memory", "768", "--engine-label", "color=red", "source"
        )
        program("ssh", "source", "\n".join([IMPORT, RUN, HOOK]))
        until(lambda: published(program, "source"), deadline=60, what="the port")
        assert program("template", "create", "web", "--from", "source").stdout.splitlines()[-1] == "web"
        created = program("create", "--no-share", "--template", "web", "--engine-label", "size=small", "one")
        # The container of the template runs from the first moment.
        assert page(program, "one") == PAGE, created.text
        yield program


def folder(program: Pymachine, name: str) -> Path:
    return program.store / "machines" / name


def template_folder(program: Pymachine, name: str = "web") -> Path:
    return Path(program.env["PYMACHINE_CACHE"]) / "templates" / name


def client_environment(program: Pymachine, name: str) -> dict[str, str]:
    return dict(json.loads(program("env", "--json", name).stdout)["Variables"])


def published(program: Pymachine, name: str) -> list[int]:
    return [row["Port"] for row in json.loads(program("ports", "--json", name).stdout) if not row["Problem"]]


def page(program: Pymachine, name: str) -> bytes:
    connection = http.client.HTTPConnection(program("ip", name).stdout.strip(), PORT, timeout=60)
    connection.request("GET", "/index.html")
    return connection.getresponse().read()


def engine(program: Pymachine, name: str, words: str) -> str:
    return program("ssh", name, f"docker {words}").stdout


def secrets_of(machine: Path) -> dict[str, bytes]:
    """Return what is secret about a machine, in the forms in which programs keep it."""
    found = {"machine-id": (machine / "machine-id").read_bytes().strip()}
    for name in PRIVATE:
        lines = [line for line in (machine / name).read_text().splitlines() if "-----" not in line]
        found |= {f"{name}, line {number}": line.encode() for number, line in enumerate(lines) if len(line) > 32}
        der = base64.b64decode("".join(lines))
        found[f"{name}, decoded"] = der[len(der) // 2 :][:24]
    tls = serialization.load_pem_private_key((machine / PRIVATE[0]).read_bytes(), None)
    number = tls.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    ssh = serialization.load_ssh_private_key((machine / PRIVATE[1]).read_bytes(), None)
    raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    return found | {"the number": number, "the number, reversed": number[::-1], "the seed": ssh.private_bytes(*raw)}


def data_of(path: Path) -> bytes:
    with path.open("rb") as file:
        found = []
        for begin, end in sparse_files.data_ranges(file.fileno()):
            file.seek(begin)
            found.append(file.read(end - begin))
        return b"".join(found)


def test_the_template_has_no_key_of_the_machine_it_was_made_from(program: Pymachine) -> None:
    secrets = secrets_of(folder(program, "source"))
    # The machine itself has them, in its memory and on its disk.
    program("snapshot", "create", "source", "control")
    saved = b"".join(data_of(path) for path in (folder(program, "source") / "snapshots" / "control").iterdir())
    # Programs keep the number in the order of the processor.
    assert {name for name, secret in secrets.items() if secret not in saved} <= {"the number"}
    program("snapshot", "rm", "source", "control")
    for path in template_folder(program).iterdir():
        data = data_of(path)
        assert [name for name, secret in secrets.items() if secret in data] == [], path.name


def test_the_machine_goes_on(program: Pymachine) -> None:
    assert page(program, "source") == PAGE
    assert engine(program, "source", "ps --format '{{.Names}}'") == "web\n"


def test_a_template_says_what_it_contains(program: Pymachine) -> None:
    shown = json.loads(program("template", "show", "--json", "web").stdout)
    assert [image["Names"] for image in shown["Images"]] == [["box:1"]]
    assert shown["Containers"] == [{"Name": "web", "Image": "box:1"}]
    assert (shown["Machine"], shown["Recipe"]) == ("source", {})
    assert "Container: web (box:1)" in program("template", "show", "web").stdout
    assert program("template", "verify", "web").stdout == "web: intact\n"


def test_a_clone_has_its_own_identity_and_the_right_time(program: Pymachine) -> None:
    asked = "hostname; cat /etc/machine-id; docker info -f '{{.Name}} {{json .Labels}}'; date +%s; docker ps -q | wc -l"
    before = time.time()
    name, machine_id, info, now, containers = program("ssh", "one", asked).stdout.splitlines()
    assert (name, machine_id) == ("one", (folder(program, "one") / "machine-id").read_text().strip())
    assert info.split()[0] == "one"
    assert {"color=red", "size=small"} <= set(json.loads(info.split(maxsplit=1)[1]))
    assert -2 < int(now) - before < 60
    assert containers.strip() == "1"
    assert published(program, "one") == [PORT]
    until(
        lambda: program("ssh", "one", "cat /var/log/activated.log").stdout == "I am one\n",
        deadline=60,
        what="the user's script",
    )


def test_a_clone_takes_little_of_the_disk(program: Pymachine) -> None:
    machine = folder(program, "one")
    own = [path for path in machine.iterdir() if path.is_file() and path.stat().st_nlink == 1]
    assert sum(path.stat().st_blocks * 512 for path in own) < 30_000_000
    assert (machine / "disk.base").stat().st_ino == (template_folder(program) / "disk.base").stat().st_ino


def test_options_of_the_hardware_are_refused(program: Pymachine) -> None:
    refused = program("create", "--template", "web", "--qemu-memory", "1024", "x", code=None)
    assert "--qemu-memory cannot be used with --template: it is fixed in the template web" in refused.stderr
    assert refused.code != 0
    assert 'no template "other"' in program("create", "--template", "other", "x", code=None).stderr
    assert not folder(program, "x").exists()


def test_a_template_is_built_by_its_recipe(program: Pymachine) -> None:
    archive = program.home / "box.tar"
    environment = program.environment() | client_environment(program, "source")
    subprocess.run(["docker", "save", "-o", archive, "box:1"], env=environment, check=True, timeout=120)
    failed = program("template", "build", "built", "--load", str(archive), "--exec", "echo why; exit 7", code=7)
    assert "why\n" in failed.stderr
    assert "echo why; exit 7 failed with exit code 7" in failed.stderr
    assert "built" not in program("template", "ls").stdout
    run = "docker run -d --name late --stop-signal KILL box:1 busybox sleep 5000"
    program("template", "build", "built", "--load", str(archive), "--exec", run)
    shown = json.loads(program("template", "show", "--json", "built").stdout)
    assert shown["Containers"] == [{"Name": "late", "Image": "box:1"}]
    assert (shown["Machine"], shown["Recipe"]["Exec"]) == ("", [run])
    containers = program("run", "--template", "built", "--", "docker", "ps", "--format", "{{.Names}}")
    assert containers.stdout == "late\n"
    assert program("ls", "-q").stdout.split() == ["one", "source"]


def test_a_template_that_cannot_be_resumed_is_made_again_or_refused(program: Pymachine) -> None:
    """Only the beginning of both, since the rest is what the other tests do."""
    for name in ("web", "built"):
        path = template_folder(program, name) / "template.json"
        manifest = json.loads(path.read_text())
        manifest["facts"]["Shape"]["qemu"] = "1.0"
        if name == "built":
            manifest["from"]["recipe"]["exec"] = ["exit 9"]
        path.write_text(json.dumps(manifest))
    refused = program("create", "--template", "web", "x", code=1)
    assert "the template web cannot be used: this host's QEMU" in refused.stderr
    assert "qemu: 1.0, now " in refused.stderr
    remade = program("create", "--template", "built", "x", code=9)
    assert "the template built cannot be made again: exit 9 failed with exit code 9" in remade.stderr
    (template_folder(program, "web") / "state").write_bytes(b"")
    assert "web is damaged: state has another content" in program("template", "verify", code=1).stderr
    assert "the template web cannot be used: " in program("create", "--template", "web", "x", code=1).stderr
    assert program("ls", "-q").stdout.split() == ["one", "source"]


def test_a_clone_can_be_saved_changed_and_moved_without_its_template(program: Pymachine) -> None:
    program("snapshot", "create", "one", "saved")
    program("ssh", "one", "docker rm -f web")
    program("snapshot", "restore", "one", "saved")
    until(lambda: published(program, "one") == [PORT], deadline=60, what="the port")
    assert page(program, "one") == PAGE
    program("template", "rm", "web")
    assert page(program, "one") == PAGE
    program("stop", "one")
    program("modify", "--disk-size", "30000", "one")
    file = program.home / "one.tar"
    program("export", "one", str(file))
    assert not (folder(program, "one") / "disk.raw").exists()
    program("rm", "-y", "one", "source")
    program("import", str(file), "two")
    program("start", "two")
    assert engine(program, "two", "images --format '{{.Repository}}'") == "box\n"
    size = program("ssh", "two", "df -m /var/lib/docker | tail -n 1").stdout.split()[1]
    assert int(size) > 25_000
    program("rm", "-y", "two")
    assert program.remaining_processes() == {}
