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
from support.reporters import RecordingReporter
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
INFO = (
    "{{json .RegistryConfig.IndexConfigs}} {{.Labels}} {{.RegistryConfig.Mirrors}} {{.HTTPProxy}} {{.Debug}}"
    " {{.Driver}} {{.Name}}"
)


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


def check_options(info: str, *, name: str = NAME) -> None:
    """Check the engine's options in `info`, in the format `INFO`."""
    assert "a=b" in info
    assert "provider=qemu" in info
    assert "r.example:5000" in info
    assert info.endswith(f"[http://m:1/] http://p.example:1 true overlay2 {name}")


def test_the_engine_has_the_options_of_create(program: Pymachine) -> None:
    check_options(docker(program, "info", "-f", INFO))
    docker(program, "import", "-", "bb", stdin=busybox())
    sleep = ("bb", "/bin/busybox", "sleep", "100000")
    docker(program, "run", "-d", "--name", "sleeper", "--stop-signal", "KILL", *sleep)
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
    (tree / "sub" / "file").write_text("two")
    program("scp", "-r", "-d", "-q", f"{tree}/", f"{NAME}:/tmp/delta")
    program("scp", "-r", "-d", f"{NAME}:/tmp/delta", f"docker@{NAME}:/tmp/relayed")
    program("scp", "-r", "-d", f"{NAME}:/tmp/delta/", f"{NAME}:/tmp/contents")
    program("scp", f"{NAME}:/tmp/delta/sub/file", f"{NAME}:again")
    program("scp", f"{NAME}:again", f"localhost:{program.home}/back")
    assert (program.home / "back").read_text() == "two"
    copies = "'tree with blank/sub/file' /tmp/relayed/delta/sub/file /tmp/contents/sub/file"
    outcome = program("ssh", NAME, f"cat {copies}; exit 7", code=7)
    assert outcome.stdout == "onetwotwo"
    assert outcome.stderr == "exit status 7\n"


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


def test_a_disk_cannot_shrink_and_a_running_machine_does_not_change(program: Pymachine) -> None:
    refused = program("modify", "--memory", "1500", NAME, code=1)
    assert "can only change while it is stopped" in refused.stderr
    shrunk = program("modify", "--disk-size", "1000", "--restart", NAME, code=1)
    assert "a disk cannot shrink" in shrunk.stderr
    assert program("status", NAME).stdout == "Running\n"


def test_upgrade_restores_the_old_image_if_the_new_one_does_not_boot(
    program: Pymachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("upgrade", NAME)  # Debian may have published updates since `create`
    assert program("upgrade", NAME).stdout.splitlines()[-1] == f'Machine "{NAME}" has the newest image already.'
    (program.home / "mine").write_text("mine\n")

    for name, value in program.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "600")
    good = folder(program)
    bad = tmp_path / "vmlinuz"
    bad.write_bytes(b"not a kernel" * 1000)
    image = ImageFiles("f" * 64, "amd64", good / "boot2docker.iso", bad, good / "initrd.img")
    monkeypatch.setattr(provide, "refresh", lambda request, *, store, reporter: image)
    kernel, digest = (good / "vmlinuz").read_bytes(), record(program)["Driver"]["ImageDigest"]  # type: ignore[index]
    reporter = RecordingReporter()
    with pytest.raises(PymachineError, match="has its old image again"):
        upgrade(Hosts(Store(program.store), reporter=reporter), NAME)
    assert "Stopping machine to do the upgrade..." in reporter.lines
    assert (good / "vmlinuz").read_bytes() == kernel
    assert record(program)["Driver"]["ImageDigest"] == digest  # type: ignore[index]
    assert program("status", NAME).stdout == "Running\n"
    assert list(good.glob("*.aside")) == []
    # It runs with its data and its shared folder, the home.
    assert program("ssh", NAME, f"cat {program.home}/mine").stdout == "mine\n"
    assert docker(program, "ps", "-a", "--format", "{{.Names}}") == "sleeper"


def test_a_stopped_machine_can_be_renamed_and_exported(program: Pymachine) -> None:
    assert "it must be stopped" in program("rename", NAME, "other", code=1).stderr
    assert "only a stopped one can be exported" in program("export", NAME, str(exported(program)), code=1).stderr
    program("export", "--connection", NAME, str(program.home / "connection"))
    with private_store() as far:
        far("import", str(program.home / "connection"), "far")
        assert far("version", "far").stdout == program("version", NAME).stdout
    program("stop", NAME)
    program("rename", NAME, "other")
    assert program("ls", "-q").stdout == "other\n"
    program("export", "other", str(exported(program)))
    assert exported(program).stat().st_size < 400_000_000
    program("rename", "other", NAME)


def exported(program: Pymachine) -> Path:
    return program.home / "export"


def test_an_imported_machine_can_be_renamed_grown_and_upgraded_and_keeps_its_data(program: Pymachine) -> None:
    with private_store() as far:
        share = f"{program.home}:/imported:ro"
        output = json.loads(far("import", "--share", share, str(exported(program)), "copy", "--json").stdout)
        assert output == [{"Name": "copy", "DriverName": "qemu", "State": "Stopped", "URL": ""}]
        assert far("ip", "copy", code=1).stdout == ""
        far("rename", "copy", "second")
        far("modify", "--cpus", "2", "--memory", "1500", "--disk-size", "30000", "second")
        # Name another image in the record, so that the current image counts as newer.
        changed = record(far, "second")
        changed["Driver"]["ImageDigest"] = "0" * 64  # type: ignore[index]
        (folder(far, "second") / "config.json").write_text(json.dumps(changed))
        # The upgrade starts the machine. All that was changed takes effect.
        assert "Starting machine back up..." in far("upgrade", "second").stdout
        assert record(far, "second")["Driver"]["ImageDigest"] != "0" * 64  # type: ignore[index]
        assert list(folder(far, "second").glob("*.aside")) == []

        script = "hostname; cd /imported; ls export; df -k /var/lib/docker | tail -n 1 | awk '{ print $2 }'"
        # The folder that the machine shared is not in the export.
        script += f"; [ -e {program.home} ] || echo none"
        hostname, shared, blocks, home = far("ssh", "second", script).stdout.split()
        assert (hostname, shared, home) == ("second", "export", "none")
        assert int(blocks) > 27_000_000
        commands = [
            'eval "$(pymachine env --shell bash second)"',
            f"docker info -f '{INFO}'",
            "docker info -f '{{.NCPU}} {{.MemTotal}}'",
            "docker images --format '{{.Repository}}'",
            "docker ps -a --format '{{.Names}}'",
        ]
        info, hardware, *names = far.run(["bash", "-c", "; ".join(commands)]).stdout.splitlines()
        check_options(info, name="second")
        cpus, memory = hardware.split()
        assert (cpus, 1400 < int(memory) / 2**20 < 1500) == ("2", True)
        assert names == ["bb", "sleeper"]
        assert far("url", "second").stdout != ""
        far("rm", "-y", "second")
        assert far.remaining_processes() == {}


def test_the_context_is_removed_with_the_machine(program: Pymachine) -> None:
    listed = program.run(["docker", "context", "ls", "--format", "{{.Name}}"]).stdout.split()
    assert NAME in listed
    program("rm", "-y", NAME)
    assert NAME not in program.run(["docker", "context", "ls", "--format", "{{.Name}}"]).stdout.split()
    assert program.remaining_processes() == {}
    assert list((program.store / "machines").iterdir()) == []
