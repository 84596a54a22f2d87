"""New certificates, options, hardware, name, store and image for a machine, which keeps its containers and data.

The tests share a machine and depend on their order.
"""

from __future__ import annotations

import io
import json
import select
import shutil
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageFiles
from pymachine.errors import PymachineError
from pymachine.hosts.host import Hosts
from pymachine.hosts.upgrade import upgrade
from pymachine.image import provide
from pymachine.store.store import Store
from support import tls_clients
from support.runner import Pymachine, private_store

NAME = "keeper"
ENGINE = [
    *(
        "--engine-label",
        "a=b",
        "--engine-insecure-registry",
        "r.example:5000",
        "--engine-registry-mirror",
        "http://m:1",
    ),
    *(
        "--engine-env",
        "HTTP_PROXY=http://p.example:1",
        "--engine-opt",
        "debug=true",
        "--engine-storage-driver",
        "overlay2",
    ),
    *("--tls-san", "keeper.example"),
]
INFO = "{{.Labels}} {{.RegistryConfig.Mirrors}} {{.HTTPProxy}} {{.Debug}} {{.Driver}} {{.Name}}"


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    with private_store() as store:
        store("create", "--docker-context", *ENGINE, NAME)
        yield store


def docker(program: Pymachine, *words: str, stdin: bytes = b"") -> str:
    """Run docker with the machine's context and return its output."""
    ended = subprocess.run(
        ["docker", "--context", NAME, *words],
        env=program.environment(),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, f"docker {words}: {ended.stderr.decode()}{program.guest_logs()}"
    return ended.stdout.decode().strip()


def container_state(program: Pymachine) -> str:
    """Return facts that change if the container is restarted."""
    return docker(program, "inspect", "-f", "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}}", "sleeper")


def folder(program: Pymachine, name: str = NAME) -> Path:
    return program.store / "machines" / name


def record(program: Pymachine, name: str = NAME) -> dict[str, object]:
    return dict(json.loads((folder(program, name) / "config.json").read_text()))


def busybox() -> bytes:
    """Return a root file system for `docker import`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
    return buffer.getvalue()


def check_options(program: Pymachine) -> None:
    output = docker(program, "info", "-f", INFO)
    assert "a=b" in output
    assert "provider=qemu" in output
    assert output.endswith(f"[http://m:1/] http://p.example:1 true overlay2 {NAME}")
    assert "r.example:5000" in docker(program, "info", "-f", "{{json .RegistryConfig.IndexConfigs}}")


def test_the_engine_has_the_options_of_create(program: Pymachine) -> None:
    check_options(program)
    docker(program, "import", "-", "bb", stdin=busybox())
    docker(program, "run", "-d", "--name", "sleeper", "bb", "/bin/busybox", "sleep", "100000")
    assert container_state(program).startswith("running ")


def test_new_certificates_do_not_disturb_containers(program: Pymachine) -> None:
    before, old = container_state(program), folder(program) / "server.pem"
    content = old.read_bytes()
    output = program("regenerate-certs", NAME, stdin="y\n")
    assert output.stdout.splitlines()[0].endswith("(y/n): Regenerating TLS certificates")
    assert old.read_bytes() != content
    assert container_state(program) == before
    program("env", NAME)


def test_after_a_new_ca_the_old_key_is_refused(program: Pymachine, tmp_path: Path) -> None:
    before = container_state(program)
    for file in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(folder(program) / file, tmp_path)
    url = program("url", NAME).stdout.strip()
    program("regenerate-certs", "-f", "--client-certs", NAME)
    assert container_state(program) == before  # the docker context has the new certificates
    new = folder(program)
    assert tls_clients.ping(url, ca=new / "ca.pem", pair=(new / "cert.pem", new / "key.pem")) == "OK"
    with pytest.raises((ssl.SSLError, OSError)):
        tls_clients.ping(url, ca=new / "ca.pem", pair=(tmp_path / "cert.pem", tmp_path / "key.pem"))
    with pytest.raises(ssl.SSLError):
        tls_clients.ping(url, ca=tmp_path / "ca.pem", pair=(tmp_path / "cert.pem", tmp_path / "key.pem"))


def test_labels_can_change_while_containers_run(program: Pymachine) -> None:
    before = container_state(program)
    program("modify", "--engine-label", "a=b", "--engine-label", "c=d", NAME)
    assert "c=d" in docker(program, "info", "-f", "{{.Labels}}")
    assert container_state(program) == before


REFUSED = f'the engine of machine "{NAME}" refuses these options'


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine-opt", "bogus=1"], REFUSED),
        (["--engine-opt", "log-level=x"], REFUSED),
        (["--engine-label", "x"], "--engine-label 'x': expected KEY=VALUE"),
    ],
)
def test_options_that_the_engine_refuses_change_nothing(program: Pymachine, words: list[str], message: str) -> None:
    before, kept = container_state(program), record(program)
    refused = program("modify", *words, NAME, code=1)
    assert message in refused.stderr
    assert container_state(program) == before
    assert record(program) == kept


def test_logs_shows_and_follows_console_and_engine(program: Pymachine) -> None:
    output = json.loads(program("logs", "--json", "-n", "50", NAME).stdout)
    # Nothing of the boot, if the machine was resumed.
    assert any(line.startswith("STAGE ") for line in output["Console"])
    assert "\n".join(output["Console"]) in (folder(program) / "console.log").read_text()
    assert any("msg=" in line for line in output["Engine"])
    with program.start("logs", "-f", "-n", "0", NAME) as following:
        assert following.stdout is not None
        while not select.select([following.stdout], [], [], 1)[0]:  # following starts after the login
            docker(program, "ps")
        assert "Calling GET" in following.stdout.readline() + following.stdout.readline()
        following.terminate()


def test_scp_copies_to_from_and_between_machines(program: Pymachine) -> None:
    tree = program.home / "tree with blank"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("one")
    program("scp", "-r", "-q", str(tree), f"{NAME}:")
    assert program("ssh", NAME, "cat 'tree with blank/sub/file'").stdout == "one"
    (tree / "sub" / "file").write_text("two")
    program("scp", "-r", "-d", "-q", f"{tree}/", f"{NAME}:/tmp/delta")
    program("scp", "-r", "-d", f"{NAME}:/tmp/delta", f"docker@{NAME}:/tmp/relayed")
    program("scp", "-r", "-d", f"{NAME}:/tmp/delta/", f"{NAME}:/tmp/contents")
    assert program("ssh", NAME, "cat /tmp/relayed/delta/sub/file /tmp/contents/sub/file").stdout == "twotwo"
    program("scp", f"{NAME}:/tmp/delta/sub/file", f"{NAME}:again")
    program("scp", f"{NAME}:again", f"localhost:{program.home}/back")
    assert (program.home / "back").read_text() == "two"
    missing = program("ssh", NAME, "exit 7", code=7)
    assert missing.stderr == "exit status 7\n"


def test_a_folder_of_the_machine_can_be_mounted(program: Pymachine) -> None:
    point = program.home / "mount point"
    point.mkdir()
    program("mount", f"{NAME}:/home/docker", str(point))
    try:
        (point / "from-here").write_text("hello")
        assert program("ssh", NAME, "cat from-here").stdout == "hello"
    finally:
        program("mount", "-u", f"{NAME}:/home/docker", str(point))
    assert list(point.iterdir()) == []
    assert "is not a directory" in program("mount", f"{NAME}:/nowhere/else", code=1).stderr


def test_a_store_can_be_moved_while_its_machine_runs(program: Pymachine) -> None:
    moved = program.store.with_name("moved store")
    program.store.rename(moved)
    elsewhere = Pymachine(moved, program.home)
    try:
        assert elsewhere("status", NAME).stdout == "Running\n"
        assert str(moved) in elsewhere("env", NAME).stdout
        assert elsewhere("ssh", NAME, "hostname").stdout == f"{NAME}\n"
        elsewhere("regenerate-certs", "-f", NAME)
        copy = Pymachine(program.store, program.home)
        shutil.copytree(
            moved / "machines" / NAME, folder(copy), symlinks=True, ignore=shutil.ignore_patterns("*.raw", "*.iso")
        )
        # A copy of the machine's folder does not refer to the running machine.
        assert copy("status", NAME).stdout == "Stopped\n"
        copy("rm", "-f", NAME)
        assert elsewhere("status", NAME).stdout == "Running\n"
    finally:
        shutil.rmtree(program.store, ignore_errors=True)
        moved.rename(program.store)


def name_another_image(program: Pymachine) -> None:
    """Name another image in the record, so that the current image counts as newer."""
    changed = record(program)
    changed["Driver"]["ImageDigest"] = "0" * 64  # type: ignore[index]
    (folder(program) / "config.json").write_text(json.dumps(changed))


def test_upgrade_restores_the_old_image_if_the_new_one_does_not_boot(
    program: Pymachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in program.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "600")
    good = folder(program)
    bad = tmp_path / "vmlinuz"
    bad.write_bytes(b"not a kernel" * 1000)
    image = ImageFiles("f" * 64, "amd64", good / "boot2docker.iso", bad, good / "initrd.img")
    monkeypatch.setattr(provide, "refresh", lambda request, *, store, reporter: image)
    kernel, digest = (good / "vmlinuz").read_bytes(), record(program)["Driver"]["ImageDigest"]  # type: ignore[index]
    with pytest.raises(PymachineError, match="has its old image again"):
        upgrade(Hosts(Store(program.store)), NAME)
    assert (good / "vmlinuz").read_bytes() == kernel
    assert record(program)["Driver"]["ImageDigest"] == digest  # type: ignore[index]
    assert program("status", NAME).stdout == "Running\n"
    assert list(good.glob("*.aside")) == []


def test_upgrade_keeps_the_data_and_the_shared_folders(program: Pymachine) -> None:
    program("upgrade", NAME)  # Debian may have published updates since `create`
    assert program("upgrade", NAME).stdout.splitlines()[-1] == f'Machine "{NAME}" has the newest image already.'
    name_another_image(program)
    (program.home / "mine").write_text("mine\n")
    output = program("upgrade", NAME).stdout
    assert "Stopping machine to do the upgrade..." in output
    assert "Starting machine back up..." in output
    check_options(program)
    assert program("ssh", NAME, f"cat {program.home}/mine").stdout == "mine\n"  # the home is a shared folder
    assert docker(program, "images", "--format", "{{.Repository}}") == "bb"
    assert docker(program, "ps", "-a", "--format", "{{.Names}}") == "sleeper"
    assert list(folder(program).glob("*.aside")) == []


def test_a_stopped_machine_can_be_renamed_exported_and_grow(program: Pymachine) -> None:
    file = program.home / "export"
    assert "it must be stopped" in program("rename", NAME, "other", code=1).stderr
    assert "only a stopped one can be exported" in program("export", NAME, str(file), code=1).stderr
    program("export", "--connection", NAME, str(program.home / "connection"))
    with private_store() as far:
        far("import", str(program.home / "connection"), "far")
        assert far("version", "far").stdout == program("version", NAME).stdout
        program("stop", NAME)
        program("rename", NAME, "other")
        assert program("ls", "-q").stdout == "other\n"
        program("export", "other", str(file))
        assert file.stat().st_size < 400_000_000
        share = f"{program.home}:/imported:ro"
        output = json.loads(far("import", "--share", share, str(file), "copy", "--json").stdout)
        assert output == [{"Name": "copy", "DriverName": "qemu", "State": "Stopped", "URL": ""}]
        assert far("ip", "copy", code=1).stdout == ""
        far("start", "copy")
        script = "hostname; docker images --format '{{.Repository}}'; cd /imported; ls export"
        # The folder that the machine shared is not in the export.
        script += f"; [ -e {program.home} ] || echo none"
        assert far("ssh", "copy", script).stdout == "copy\nbb\nexport\nnone\n"
        assert far("url", "copy").stdout != ""
    program("rename", "other", NAME)
    program("modify", "--cpus", "2", "--memory", "1500", "--disk-size", "30000", NAME)
    program("start", NAME)
    assert program("ssh", NAME, f"hostname; cd {program.home}; ls export").stdout == f"{NAME}\nexport\n"
    cpus, memory = docker(program, "info", "-f", "{{.NCPU}} {{.MemTotal}}").split()
    assert (cpus, 1400 < int(memory) / 2**20 < 1500) == ("2", True)
    blocks = int(program("ssh", NAME, "df -k /var/lib/docker | tail -n 1 | awk '{ print $2 }'").stdout)
    assert blocks > 27_000_000
    check_options(program)
    assert "bb" in docker(program, "images", "-q", "--format", "{{.Repository}}")


def test_a_disk_cannot_shrink_and_a_running_machine_does_not_change(program: Pymachine) -> None:
    refused = program("modify", "--memory", "1500", NAME, code=1)
    assert "can only change while it is stopped" in refused.stderr
    shrunk = program("modify", "--disk-size", "1000", "--restart", NAME, code=1)
    assert "a disk cannot shrink" in shrunk.stderr
    assert program("status", NAME).stdout == "Running\n"


def test_the_context_is_removed_with_the_machine(program: Pymachine) -> None:
    listed = program.run(["docker", "context", "ls", "--format", "{{.Name}}"]).stdout.split()
    assert NAME in listed
    program("rm", "-y", NAME)
    assert NAME not in program.run(["docker", "context", "ls", "--format", "{{.Name}}"]).stdout.split()
    assert program.remaining_processes() == {}
    assert list((program.store / "machines").iterdir()) == []
