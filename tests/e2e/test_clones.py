"""Real clones of a real template: each has its own identity and random numbers; failures fall back to a normal boot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pymachine.hosts.templates import NEEDED_BYTES
from pymachine.system.wait import until
from support.crashing_qemu import crashing_qemu
from support.runner import Pymachine, cache_folder, private_store
from support.tls_hello import server_random

pytestmark = pytest.mark.timeout(2700)

RESUMED = "Waiting for the machine to resume"
MADE = "Waiting for the template to start"
BOOTED = "Waiting for the machine to start"
ENGINE_OPTIONS = (
    *("--engine-label", "color=red", "--engine-opt", "log-driver=local"),
    *("--engine-env", "PROXY_FOR=tests", "--engine-insecure-registry", "r:5000"),
)
# Imports an image with the machine's busybox.
IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
tar -c -C /tmp/box . | docker import - box:1 > /dev/null"""


def with_own_templates(program: Pymachine) -> Path:
    """Let `program` use its own templates, with the images and packages that all tests share."""
    cache = program.home.parent / "cache"
    cache.mkdir()
    for name in ("images", "packages"):
        (cache_folder() / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(cache_folder() / name)
    program.env["PYMACHINE_CACHE"] = str(cache)
    return cache / "templates"


def with_shared_template(program: Pymachine) -> None:
    """Let `program` use its own copy of the template that all tests share, which saves a boot."""
    made = json.loads(program("template", "build", "--json").stdout)
    own = with_own_templates(program)
    own.mkdir()
    subprocess.run(["cp", "-a", made["Path"], str(own)], check=True)


@pytest.fixture(scope="module")
def interrupted() -> Iterator[Pymachine]:
    """A store whose template was damaged, so that it is built again; the builds were ended by Ctrl-C and by a kill."""
    with private_store() as program:
        with_shared_template(program)
        check_damaged_templates_and_interrupted_builds(program)
        yield program


@pytest.fixture(scope="module")
def host(interrupted: Pymachine) -> Pymachine:
    """The same store with two machines, the first of which built the template. Both have the image `box:1`."""
    program = interrupted
    first = program("create", "one").stdout
    second = program("create", *ENGINE_OPTIONS, "two").stdout
    assert (MADE in first, RESUMED in first, BOOTED in first) == (True, True, False)
    assert (MADE in second, RESUMED in second, BOOTED in second) == (False, True, False)
    assert template_folders(program) == templates(program) != []
    for name in ("one", "two"):
        ssh(program, name, IMPORT)
    return program


@pytest.fixture(scope="module")
def fresh(host: Pymachine) -> Iterator[str]:
    """The name of one more clone, which the tests use in their order."""
    host("create", "fresh")
    yield "fresh"
    host("rm", "-y", "fresh")


@pytest.fixture
def program() -> Iterator[Pymachine]:
    """An empty store without a template, for tests that break machines."""
    with private_store() as empty:
        with_own_templates(empty)
        yield empty


def folder_of(program: Pymachine, name: str) -> Path:
    return program.store / "machines" / name


def address_of(program: Pymachine, name: str) -> tuple[str, int]:
    endpoint = json.loads((folder_of(program, name) / "config.json").read_text())["Endpoint"]
    return endpoint["Address"], endpoint["DockerPort"]


def docker(program: Pymachine, name: str, command: str, code: int | None = 0) -> str:
    script = f'set -eu; eval "$(pymachine env {name})"; {command}'
    return program.run(["bash", "-c", script], code=code).stdout


def ssh(program: Pymachine, name: str, command: str) -> str:
    return program("ssh", name, command).stdout


@contextmanager
def qmp_stream(program: Pymachine, name: str) -> Iterator[Callable[[str], Any]]:
    """Connect to the monitor of a machine's QEMU; yield a function that executes a command and returns the answer."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(30)
        monitor.connect(str(folder_of(program, name) / "run" / "control.sock"))
        with monitor.makefile("rw", encoding="utf-8") as stream:

            def execute(command: str) -> Any:
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    pass
                return answer["return"]

            execute("qmp_capabilities")
            yield execute


def qmp(program: Pymachine, name: str, *commands: str) -> None:
    """Execute commands in the monitor of a machine's QEMU."""
    with qmp_stream(program, name) as execute:
        for command in commands:
            execute(command)


def read_until(text: str, process: subprocess.Popen[str]) -> str:
    """Return the lines that `process` prints, up to the one with `text`."""
    assert process.stdout
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    pytest.fail(output)


def templates(program: Pymachine) -> list[str]:
    return [entry["Name"] for entry in json.loads(program("template", "ls", "--json").stdout)]


def template_folders(program: Pymachine) -> list[str]:
    """Return the names of the folders next to the templates, including those of unfinished builds."""
    return [path.name for path in (Path(program.env["PYMACHINE_CACHE"]) / "templates").iterdir() if path.is_dir()]


def interrupt(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C, and wait until `process` has undone its work."""
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130


# -- the template ------------------------------------------------------------------------------------------------


def test_a_damaged_template_is_built_again_also_after_interrupted_builds(host: Pymachine) -> None:
    """The checks are made by the fixtures, since all tests use what they left."""
    assert host("ls", "-q").stdout.split() == ["one", "two"]


# -- identity ----------------------------------------------------------------------------------------------------


def test_clones_have_different_identities(host: Pymachine) -> None:
    facts = {}
    for name in ("one", "two"):
        facts[name] = ssh(host, name, "hostname; cat /etc/machine-id; cat /var/lib/boot2docker/ssh/*.pub").splitlines()
        assert facts[name][0] == name
        assert docker(host, name, "docker info --format '{{.Name}}'") == f"{name}\n"
        pinned = (folder_of(host, name) / "known_hosts").read_text().split()
        assert facts[name][2].split()[:2] == pinned[1:3]
    assert not set(facts["one"]) & set(facts["two"])
    files = ("server.pem", "server-key.pem", "id_rsa", "ssh_host_ed25519_key", "machine-id")
    assert all((folder_of(host, "one") / f).read_bytes() != (folder_of(host, "two") / f).read_bytes() for f in files)
    # A client of one machine does not accept the other: the server certificate is for another address.
    refused = docker(host, "one", f"docker -H tcp://{address_of(host, 'two')[0]}:2376 version 2>&1 && echo fine")
    assert "fine" in refused


def test_engine_options_apply_to_clones(host: Pymachine) -> None:
    info = json.loads(docker(host, "two", "docker info --format '{{json .}}'"))
    assert sorted(info["Labels"]) == ["color=red", "provider=qemu"]
    assert info["LoggingDriver"] == "local"
    assert "r:5000" in info["RegistryConfig"]["IndexConfigs"]
    environment = ssh(host, "two", "sudo cat /proc/$(cat /run/docker-init.pid)/environ").split("\0")
    assert "PROXY_FOR=tests" in environment


def test_no_two_clones_draw_the_same_random_numbers(host: Pymachine) -> None:
    """This covers the kernel, new programs, and programs that already ran in the template."""
    draws = (
        "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | sha256sum; openssl rand -hex 16; "
        "docker network create numbers; docker run -d box:1 true; docker volume create; sudo dmesg"
    )
    numbers = {}
    for name in ("one", "two"):
        hellos = [server_random(address_of(host, name), folder_of(host, name)).hex() for _ in range(2)]
        drawn = ssh(host, name, draws).splitlines()
        numbers[name] = [*hellos, *drawn[:6]]
        assert len(set(numbers[name])) == len(numbers[name]) == 8
        kernel = "\n".join(drawn[6:])
        assert "crng reseeded due to virtual machine fork" in kernel
    assert not set(numbers["one"]) & set(numbers["two"])


def test_the_clock_is_right_after_a_resume_and_after_the_host_slept(host: Pymachine) -> None:
    def clock_error() -> float:
        before = time.time()
        guest = int(ssh(host, "two", "date +%s"))
        # The guest reports whole seconds, at some moment between before and now.
        return max(0.0, before - (guest + 1), guest - time.time())

    assert clock_error() < 1
    # For the guest a sleeping host looks like this: the guest does not run, and the hardware clock continues.
    qmp(host, "two", "stop")
    time.sleep(8)
    qmp(host, "two", "cont")
    deadline = time.monotonic() + 40
    while clock_error() >= 1:
        assert time.monotonic() < deadline, f"the clock is wrong by {clock_error():.1f} s"
        time.sleep(1)


# -- a clone in use ----------------------------------------------------------------------------------------------


def test_a_clone_accepts_parallel_logins_and_survives_the_end_of_its_ssh_listener(host: Pymachine) -> None:
    def log_in(number: int) -> str:
        return ssh(host, "one", f"sleep 1; echo {number}").strip()

    with ThreadPoolExecutor(5) as pool:  # in software emulation each login takes a second
        assert list(pool.map(log_in, range(5))) == [str(number) for number in range(5)]
    ssh(host, "one", "sudo kill $(pidof nc)")
    time.sleep(2)
    assert log_in(8) == "8"
    host("regenerate-certs", "-f", "one")
    assert "sshd: /usr/sbin/sshd" not in ssh(host, "one", "ps")


def fetch(program: Pymachine, name: str) -> str:
    """Return a command that gets an answer from the web server at port 8089 of a machine."""
    page = f"http://{address_of(program, name)[0]}:8089/"
    return f"curl -sS -o /dev/null --retry 20 --retry-connrefused {page}"


def forwarders(program: Pymachine, name: str) -> list[list[str]]:
    """Return the command lines of the machine's port forwarder and of the shell that waits before it."""
    folder = str(folder_of(program, name))
    lines = (words(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    return [line for line in lines if line[-1:] == [folder] and "pymachine_driver_qemu.ports" in line]


def words(cmdline: Path) -> list[str]:
    try:
        return os.fsdecode(cmdline.read_bytes()).split("\0")[:-1]
    except OSError:
        return []  # the process has ended


def test_an_idle_clone_does_not_read_its_image_or_zero_its_disk(host: Pymachine, fresh: str) -> None:
    """It shares the template's memory, so it need not read its image. Its new disk has initialized inode tables."""
    with qmp_stream(host, fresh) as execute:
        drives = {drive["device"]: drive["stats"] for drive in execute("query-blockstats")}
    assert drives["iso"]["rd_bytes"] < 256 * 1024
    groups = ssh(host, fresh, "sudo dumpe2fs /dev/vdb1 2> /dev/null | grep '^Group [0-9]'").splitlines()
    assert groups
    assert all("ITABLE_ZEROED" in group for group in groups)


def test_only_a_shell_waits_for_the_first_container_of_a_clone(host: Pymachine, fresh: str) -> None:
    log = folder_of(host, fresh) / "ports.log"
    # As it starts, it has a child for a moment, which looks the same.
    until(lambda: [line[0] for line in forwarders(host, fresh)] == ["/bin/sh"], deadline=20, what="the shell alone")
    assert "following" not in log.read_text()
    ssh(host, fresh, IMPORT)
    serve = "docker run -d --name web -p 8089:80 box:1 busybox httpd -f -p 80 > /dev/null"
    docker(host, fresh, f"{serve}; {fetch(host, fresh)}")
    assert log.read_text().count("following the guest") == 1
    assert sorted(line[0] == "/bin/sh" for line in forwarders(host, fresh)) == [False, True]


def test_a_clone_can_reboot_and_its_ports_are_forwarded(host: Pymachine, fresh: str) -> None:
    boot_id = "cat /proc/sys/kernel/random/boot_id && hostname && docker version > /dev/null"
    before = ssh(host, fresh, boot_id)

    def facts() -> str:
        outcome = host("ssh", fresh, boot_id, code=None)
        return outcome.stdout if outcome.code == 0 and outcome.stdout != before else ""

    host("ssh", fresh, "sudo reboot", code=None)
    after = until(facts, deadline=240, what="the guest and its engine to start again", interval=2.0)
    assert after.splitlines()[1] == fresh
    docker(host, fresh, f"docker start web; {fetch(host, fresh)}")
    assert docker(host, fresh, "docker info --format '{{.Name}}'") == f"{fresh}\n"


def test_the_port_forwarder_of_a_clone_ends_with_it(host: Pymachine, fresh: str) -> None:
    assert forwarders(host, fresh)
    host("kill", fresh)
    until(lambda: not forwarders(host, fresh), deadline=20, what="its end")


def test_a_snapshot_restores_running_containers(host: Pymachine) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done"
    docker(host, "two", f"docker run -d --name counter box:1 /bin/sh -c '{count}'")
    time.sleep(2)
    host("snapshot", "create", "two", "running")
    then = int(docker(host, "two", "docker logs --tail 1 counter"))
    docker(host, "two", "docker rm -f counter; docker rmi -f box:1")
    assert "is running" in host("snapshot", "restore", "two", "running").stdout
    now = int(docker(host, "two", "docker logs --tail 1 counter"))
    assert now >= 1
    assert abs(now - then) < 600
    time.sleep(1)
    assert int(docker(host, "two", "docker logs --tail 1 counter")) > now
    assert abs(int(ssh(host, "two", "date +%s")) - time.time()) < 20
    docker(host, "two", "docker rm -f counter")
    host("snapshot", "rm", "two", "running")
    assert json.loads(host("snapshot", "ls", "--json", "two").stdout) == []


def test_a_clone_of_a_running_machine_has_its_containers_and_a_new_identity(host: Pymachine, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own\n")
    docker(host, "two", "docker run --name kept box:1 /bin/sh -c 'echo data > /kept'")
    host("clone", "--share", f"{tmp_path}:/shared", "two", "copy")
    try:
        # It shares its own folder, but not the original's, which is the home.
        facts = f"hostname; sudo cat /etc/machine-id /shared/own; ls {host.home} 2> /dev/null || echo none"
        name, machine_id, *shared = ssh(host, "copy", facts).splitlines()
        assert (name, shared) == ("copy", ["own", "none"])
        assert docker(host, "copy", "docker cp kept:/kept - | tar -xO") == "data\n"
        assert machine_id != ssh(host, "two", "cat /etc/machine-id").strip()
        assert labels(host, "copy") == ["color=red", "provider=qemu"]
        assert host("status", "two").stdout == "Running\n"
    finally:
        host("rm", "-y", "copy")


def labels(host: Pymachine, name: str) -> list[str]:
    """Return the engine's labels, sorted, since the engine lists them in any order."""
    return sorted(json.loads(docker(host, name, "docker info --format '{{json .Labels}}'")))


# -- failures ----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(4096)
        byte = file.read(1)
        file.seek(4096)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_qemu_that_crashes_is_started_again_and_one_that_cannot_resume_gets_no_more_templates(
    program: Pymachine, tmp_path: Path
) -> None:
    """Each QEMU binary has its own templates.

    This one crashes once if there is a file `crash`, and exits at once when it is started to resume after there is a
    file `broken`.
    """
    crash, broken = tmp_path / "crash", tmp_path / "broken"
    real = crashing_qemu(tmp_path, f"rm {crash}")
    qemu = tmp_path / "qemu"
    qemu.write_text(
        f'#!/bin/sh\ncase " $* " in *" -incoming "*) [ ! -e {broken} ] || exit 3 ;; esac\nexec {real} "$@"\n'
    )
    qemu.chmod(0o755)

    def create(name: str) -> str:
        crash.touch()
        text = program("create", "--qemu-binary", str(qemu), name).stdout
        assert text.count("QEMU crashed (SIGSEGV): booting again.") == 1
        assert ssh(program, name, "hostname") == f"{name}\n"
        return text

    text = create("resumed")  # the crash is that of the template
    assert (MADE in text, RESUMED in text, BOOTED in text) == (True, True, False)

    (template,) = (Path(program.env["PYMACHINE_CACHE"]) / "templates" / name for name in templates(program))
    subprocess.run(["cp", "-a", str(template), str(tmp_path / "again")], check=True)
    broken.touch()
    for name in ("v", "x"):  # a template counts as faulty once the same machine has booted
        text = create(name)
        assert (MADE in text, "does not resume" in text, BOOTED in text) == (False, True, True), text
        assert templates(program) == []
        if name == "v":  # the template fails once more, which saves the time to build another one
            (tmp_path / "again").rename(template)
    process = program.start("create", "--qemu-binary", str(qemu), "y")
    assert MADE not in read_until(BOOTED, process)
    interrupt(process)  # the rest of the boot shows nothing new
    # A new binary under the same path is tried again.
    qemu.write_text(f'#!/bin/sh\nexec {shutil.which("qemu-system-x86_64")} "$@"\n')
    process = program.start("create", "--qemu-binary", str(qemu), "z")
    assert BOOTED not in read_until(MADE, process)
    interrupt(process)
    program("rm", "-y", "resumed", "v", "x")
    assert program.remaining_processes() == {}


def qemus_of(cache: Path) -> list[str]:
    found = subprocess.run(["ps", "-axo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "qemu" in line and str(cache) in line]


def check_damaged_templates_and_interrupted_builds(program: Pymachine) -> None:
    """Damage the template, interrupt the builds of another one, and check that no QEMU is left.

    The next build is that of the fixture `host`.
    """
    cache = Path(program.env["PYMACHINE_CACHE"])
    (name,) = templates(program)
    folder = cache / "templates" / name
    subprocess.run(["cp", "-a", str(folder), str(cache / "good")], check=True)
    os.truncate(folder / "state", 1000)
    for number, left in ((signal.SIGINT, 0), (signal.SIGKILL, 1)):
        assert f"The template {name} is removed" in interrupt_build(program, number)
        until(lambda: not qemus_of(cache), deadline=20, what="the template's QEMU to end")
        if number is signal.SIGKILL:
            program("rm", "-y", "x")
        assert program("ls", "-q").stdout == ""
        assert templates(program) == []
        assert len(template_folders(program)) == left
        if number is signal.SIGINT:
            (cache / "good").rename(folder)
            flip(folder / "memory")


def interrupt_build(program: Pymachine, number: signal.Signals) -> str:
    """Send a signal to a `create` a second after it has started to build its template; return its output until then."""
    process = program.start("create", "x")
    output = read_until(MADE, process)
    time.sleep(1)
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    return output


# Runs `create NAME` until it prints a text, then ends it.
CREATE_UNTIL = """create_until() {
    pymachine create "$1" > "$HOME/$1" & creates=$!
    until grep "$2" "$HOME/$1"; do kill -0 $creates || break; sleep 0.1; done
    kill $creates; wait $creates; code=$?; cat "$HOME/$1"; echo "ended=$code"
}"""
ENDED = f"ended={128 + signal.SIGTERM}"


def test_create_boots_without_space_for_a_template_and_if_the_disk_fills_up_during_its_build(
    program: Pymachine,
) -> None:
    """The templates are on a small file system in memory, mounted in its own namespace.

    The disk becomes full when the file with the guest's memory is half written.
    """
    folder = Path(program.env["PYMACHINE_CACHE"]) / "templates"
    folder.mkdir()
    script = f"""{CREATE_UNTIL}
        mount -t tmpfs -o size=64m none {folder}
        create_until small '{BOOTED}'
        mount -o remount,size={(NEEDED_BYTES >> 20) + 50}m {folder}
        create_until x '{BOOTED}' & waits=$!
        until [ "$(du -m {folder}/.tmp-*/memory 2> /dev/null | cut -f 1)" -gt 50 ] 2> /dev/null; do sleep 0.1; done
        head -c 2G /dev/zero > {folder}/ballast
        wait $waits
        rm {folder}/ballast
        ls -A {folder}
        create_until y '{MADE}'"""
    outcome = program.run(["unshare", "--mount", "--map-root-user", "bash", "-c", script])
    small, _, rest = outcome.stdout.partition(f"{ENDED}\n")
    assert "not enough disk space for a template" in small
    assert BOOTED in small
    first, _, second = rest.partition(f"{ENDED}\n")
    assert f"cannot make a template in {folder}: No space left on device" in first
    assert BOOTED in first
    assert ".tmp-" not in second
    assert MADE in second
    assert BOOTED not in second
    assert f"{ENDED}\n" in second
    assert program.remaining_processes() == {}


def test_ctrl_c_undoes_all_machines_of_a_create(host: Pymachine) -> None:
    before, running = set(host("ls", "-q").stdout.split()), host.processes().keys()
    process = host.start("create", "m1", "m2", "m3", "m4")
    read_until(RESUMED, process)
    interrupt(process)
    assert set(host("ls", "-q").stdout.split()) == before
    assert host.remaining_processes(ignored=running) == {}


def test_run_leaves_nothing(host: Pymachine) -> None:
    before = host.processes().keys()
    outcome = host("run", "--", "sh", "-c", "docker version --format '{{.Server.Os}}'; exit 9", code=9)
    assert outcome.stdout == "linux\n"
    assert not re.search(r"^run-", host("ls", "-q").stdout, re.MULTILINE)
    assert host.remaining_processes(ignored=before) == {}


def test_one_create_makes_several_clones(host: Pymachine) -> None:
    names = [f"c{number}" for number in range(3)]
    host("create", *names)
    try:
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda name: ssh(host, name, "hostname").strip(), names)) == names
    finally:
        host("rm", "-y", *names)


# -- without templates: the last test with `host` ------------------------------------------------------------------


def test_a_clone_keeps_working_without_its_template(host: Pymachine) -> None:
    """Its next boot is also that of a disk which was restored without the memory."""
    container = docker(host, "one", "docker run -d -p 8080:80 box:1 /bin/busybox httpd -f -p 80").strip()
    host("template", "rm", *templates(host))
    assert templates(host) == []
    assert container[:12] in docker(host, "one", "docker ps -q")
    before = host("env", "one").stdout
    ssh(host, "one", "sync")  # without the memory, the snapshot has only what is on the disk
    host("snapshot", "create", "one", "saved")
    docker(host, "one", f"docker rm -f {container}")
    assert "is stopped" in host("snapshot", "restore", "--disk-only", "one", "saved").stdout
    assert host("status", "one").stdout == "Stopped\n"
    assert BOOTED in host("start", "one").stdout
    assert host("env", "one").stdout == before
    assert container[:12] in docker(host, "one", "docker ps -a -q")
    assert ssh(host, "one", "hostname") == "one\n"
    assert "sshd: /usr/sbin/sshd" in ssh(host, "one", "ps")
    # After a boot the engine has its own ID, not that of the template.
    assert docker(host, "one", "docker info --format '{{.ID}}'") != docker(
        host, "two", "docker info --format '{{.ID}}'"
    )
