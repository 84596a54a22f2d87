"""The driver ``generic`` with a real host: an emulated Debian system with systemd, OpenSSH and apt.

All tests share one host and restore saved moments of it: ``bare`` as installed, ``provisioned`` just after `create`,
and ``lived-in`` with an engine that pymachine did not install, its daemon.json, and a running container.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.system.wait import until
from support import packages
from support.debian import build, docker_machine
from support.debian.breakable_proxy import BreakableProxy, proxy_to
from support.debian.host import Host
from support.registry import USER_NETWORK_HOST
from support.runner import Outcome, Pymachine, private_store

DAEMON_JSON = '{\n  "bip": "10.9.0.1/24",\n  "labels": ["rack=7"],\n  "log-opts": {"max-size": "10m"}\n}\n'
# Lists a host's files, accounts and interfaces, without caches, logs, and what dpkg writes in each run.
LISTING = (
    "find /etc /usr /opt /root /var/lib /run/systemd/system -xdev"
    " -not -path '/var/lib/docker/*' -not -path '/var/lib/containerd/*'"
    " -not -path '/var/lib/apt/*' -not -path '/var/lib/dpkg/*' -not -path '/var/lib/systemd/*'"
    " -not -name 'group-' -not -name 'gshadow-' -not -name .pwd.lock -not -name ld.so.cache"
    " \\( -type d -printf '%p %m %u\\n' -o -printf '%p %m %u %s %l\\n' \\) | sort;"
    " ls /sys/class/net; cat /etc/group; dpkg --get-selections"
)
UP_SINCE = "systemctl show docker.service -p ActiveEnterTimestampMonotonic -p NRestarts"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
SHARE_SECONDS = 300.0
# It ends at SIGTERM, for which systemd would wait 90 seconds at a reboot: pymachine sets live-restore.
SLEEP = "trap exit TERM; /bin/busybox sleep 100000 & wait"
BOX = "mkdir -p /tmp/box/bin && cp /usr/bin/busybox /tmp/box/bin/ && tar -C /tmp/box -c . | docker import - box"

# An image with programs of the host.
WATCHING_BOX = (
    "mkdir -p /tmp/watching/usr/bin /tmp/watching/usr/lib /tmp/watching/usr/lib64 && cd /tmp/watching"
    " && for each in bin lib lib64; do ln -s usr/$each $each; done"
    " && cp /usr/bin/inotifywait /usr/bin/touch usr/bin"
    " && for each in $(ldd /usr/bin/inotifywait /usr/bin/touch | grep -o '/[^ :)]*' | sort -u); do"
    " install -D $each .$each; done"
    " && tar -c . | docker import - watching"
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running host."""
    built = build.ensure()
    folder = Path(tempfile.mkdtemp(prefix="pm-host-", dir="/tmp"))  # short, since it contains a socket
    with packages.serving(built.packages, USER_NETWORK_HOST) as port:
        running = Host(folder, built, apt_port=port)
        try:
            running.await_ssh()
            running.run("dpkg --configure -a && apt-get -q update")
            running.save("bare")
            yield running
        finally:
            running.kill()
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def provisioned(host: Host) -> Iterator[Pymachine]:
    """The store with a machine made of the bare host; the host is in the state just after `create`."""
    host.restore("bare")
    with private_store() as store:
        done = store("--debug", *options(host, "--engine-label", "tier=web", "far"))
        (store.home / "output").write_text(done.stdout)
        (store.home / "log").write_text(done.stderr)
        host.save("provisioned")
        yield store


@pytest.fixture(scope="module")
def lived_in(host: Host, provisioned: Pymachine) -> Host:
    """The host with an engine that pymachine did not install, and a running container."""
    host.restore("provisioned")
    host.run("rm -r /etc/docker /var/lib/pymachine /etc/systemd/system/docker.service.d")
    host.run("mkdir -p /etc/docker && cat > /etc/docker/daemon.json", stdin=DAEMON_JSON)
    host.run("systemctl daemon-reload && systemctl restart docker")
    host.run(f"{BOX} && docker run -d --name old --stop-signal SIGKILL box /bin/busybox sh -c {shlex.quote(SLEEP)}")
    host.save("lived-in")
    return host


@pytest.fixture(scope="module")
def untouched(lived_in: Host) -> str:
    """The `LISTING` of the host in the state ``lived-in``."""
    lived_in.restore("lived-in")
    return lived_in.run(LISTING)


@pytest.fixture
def program() -> Iterator[Pymachine]:
    """pymachine on an empty store. The machines' hosts outlive it, so nothing must be removed from them."""
    with private_store() as empty:
        yield empty


def options(host: Host, *more: str, user: str = "admin", port: int | None = None) -> list[str]:
    return [
        *("create", "--driver", "generic", "--generic-ip-address", "127.0.0.1", "--generic-ssh-user", user),
        *("--generic-ssh-port", str(port or host.ssh_port), "--generic-engine-port", str(host.engine_port)),
        *("--generic-ssh-key", str(host.built.key), *more),
    ]


def container(host: Host) -> str:
    """Return the state, pid and start time of the container ``old``, to see that it keeps running."""
    return host.run("docker inspect -f '{{.State.Running}} {{.State.Pid}} {{.State.StartedAt}}' old")


def settings(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("cat /etc/docker/daemon.json"))
    return found


def with_docker(program: Pymachine, name: str, command: str) -> Outcome:
    """Run a shell command with the environment of machine `name`."""
    return program.run(["bash", "-c", f'set -e\neval "$(pymachine env --shell bash {name})"\n{command}'])


# -- a bare host --------------------------------------------------------------------------------------------------


def test_a_bare_host_becomes_a_docker_host(host: Host, provisioned: Pymachine) -> None:
    output = (provisioned.home / "output").read_text()
    assert host.run("journalctl -u ssh -o cat | grep -c 'Accepted publickey for admin'") == "1\n"
    for text in (
        "(far) Importing SSH key...",
        "Provisioning with debian...",
        "Installing Docker...",
        "Copying certs to the remote machine...",
        "Setting Docker configuration on the remote daemon...",
        "Docker is up and running!",
    ):
        assert text in output
    assert re.search(r"\(far\) The host key is SHA256:\S{43} \(ssh-ed25519\)\. It is pinned", output)
    assert "far: 4 round trips over one connection" in (provisioned.home / "log").read_text()

    host.run(BOX)
    assert with_docker(provisioned, "far", "docker run --rm box /bin/busybox echo hello").stdout == "hello\n"
    assert "tier=web" in with_docker(provisioned, "far", "docker info -f '{{.Labels}}'").stdout
    assert host.run("systemctl is-enabled docker") == "enabled\n"
    assert host.run("stat -c '%a %U' /etc/docker/server-key.pem") == "600 root\n"
    assert host.run("hostname") == "found\n"

    state, since = host.run(LISTING), host.run(UP_SINCE)
    again = provisioned("provision", "far").stdout
    assert "The host is already set up: nothing was changed." in again
    assert (host.run(LISTING), host.run(UP_SINCE)) == (state, since)


def test_an_install_script_survives_a_broken_connection_and_the_host_can_be_restored(
    host: Host, program: Pymachine, tmp_path: Path
) -> None:
    host.restore("bare")
    before = host.run(LISTING)
    script = "#!/bin/sh\nset -e\nsleep 5\napt-get -q -y --no-install-recommends install docker.io docker-cli\n"
    (tmp_path / "get.sh").write_text(script)
    with proxy_to(host.ssh_port) as proxy, packages.serving(tmp_path, USER_NETWORK_HOST) as port:
        url = f"http://127.0.0.1:{port}/get.sh"
        words = options(host, "--engine-install-url", url, "far", port=proxy.port)
        output = cut_at("Packages:", proxy, program, words, after=2.0)
        assert f"The engine is installed by {url}, SHA-256 " in output
        assert 'was lost during the step "Installing Docker"' in output
        assert "pymachine provision far" in output
        # The package manager keeps running, and the next run waits for it.
        output = program("provision", "far").stdout
        assert "Docker is up and running!" in output
        assert with_docker(program, "far", "docker version -f '{{.Server.Version}}'").stdout.startswith("26.")
        assert (program.store / "machines" / "far" / "install-script.sh").read_text() == script
        program("rm", "-y", "--restore", "far")
    assert host.run(LISTING) == before


def cut_at(text: str, proxy: BreakableProxy, program: Pymachine, words: list[str], *, after: float = 0.0) -> str:
    """Run pymachine, cut its connection when it prints `text`, and return its output; it must fail."""
    process = program.start(*words)
    assert process.stdout is not None
    output = []
    for row in process.stdout:
        output.append(row)
        if text in row and proxy.connections:
            threading.Timer(after, proxy.cut).start()
            text = "\0"  # only once
    assert process.wait(300) == 1, "".join(output)
    return "".join(output)


# -- a host with an existing engine -------------------------------------------------------------------------------


def test_an_existing_engine_keeps_its_settings_and_containers(
    lived_in: Host, untouched: str, program: Pymachine
) -> None:
    lived_in.restore("lived-in")
    old = container(lived_in)
    done = program("--debug", *options(lived_in, "--timings", "far"))
    output = done.stdout
    assert re.search(r"^provisioning\t\d+\.\d\d$", output, re.MULTILINE)
    assert "Installing Docker" not in output
    assert "1 container keeps running while the engine restarts" in output
    assert "far: 2 round trips over one connection" in done.stderr  # inspect, set up
    assert container(lived_in) == old
    merged = settings(lived_in)
    assert merged["bip"] == "10.9.0.1/24"
    assert merged["labels"] == ["rack=7", "provider=generic"]
    assert merged["live-restore"] is True
    assert lived_in.run("cat /etc/docker/daemon.json.before-pymachine") == DAEMON_JSON
    assert with_docker(program, "far", "docker ps --format '{{.Names}}'").stdout == "old\n"

    # A setting with which the engine does not start is reverted.
    failed = program("modify", "--engine-storage-driver", "nonsense", "far", code=1)
    assert 'the step "Setting Docker configuration" failed on "far"' in failed.stderr
    assert "nonsense" in failed.stderr
    assert settings(lived_in) == merged
    assert container(lived_in) == old

    since = lived_in.run(UP_SINCE)
    program("provision", "far")
    assert lived_in.run(UP_SINCE) == since

    # Without --restore, rm removes the machine from the store and does not change the host.
    files = lived_in.run(LISTING)
    shutil.copytree(program.store, program.home / "kept")
    program("rm", "-y", "far")
    assert (lived_in.run(LISTING), lived_in.run(UP_SINCE)) == (files, since)
    shutil.copytree(program.home / "kept", program.store, dirs_exist_ok=True)

    program("rm", "-y", "--restore", "far")
    assert lived_in.run(LISTING) == untouched
    assert lived_in.run("cat /etc/docker/daemon.json") == DAEMON_JSON
    assert container(lived_in) == old


@pytest.mark.parametrize(
    ("text", "step", "after"),
    [
        ("Detecting the provisioner...", "Detecting the provisioner", 0.05),
        ("Setting Docker", "Setting Docker configuration", 0.5),
    ],
)
def test_provision_finishes_what_a_broken_connection_interrupted(
    lived_in: Host, program: Pymachine, text: str, step: str, after: float
) -> None:
    lived_in.restore("lived-in")
    old = container(lived_in)
    with proxy_to(lived_in.ssh_port) as proxy:
        output = cut_at(text, proxy, program, options(lived_in, "far", port=proxy.port), after=after)
        assert f'was lost during the step "{step}"' in output
        if step == "Detecting the provisioner":  # nothing changed yet, so no machine is left
            assert program("ls", "-q").stdout == ""
        else:
            program("provision", "far")
            assert "nothing was changed" in program("provision", "far").stdout
    assert container(lived_in) == old


def test_a_full_disk_changes_nothing(lived_in: Host, program: Pymachine) -> None:
    lived_in.restore("lived-in")
    old, since = container(lived_in), lived_in.run(UP_SINCE)
    lived_in.run(
        "fallocate -l $(df --output=avail -B1 / | tail -n 1) /var/tmp/full; cat /dev/zero > /var/tmp/rest", code=None
    )
    failed = program(*options(lived_in, "far"), code=1)
    assert "No space left on device" in failed.stderr
    assert lived_in.run("cat /etc/docker/daemon.json") == DAEMON_JSON
    assert (container(lived_in), lived_in.run(UP_SINCE)) == (old, since)
    lived_in.run("rm /var/tmp/full /var/tmp/rest")
    program("provision", "far")
    assert container(lived_in) == old


def test_sudo_with_a_password_is_refused_before_anything_is_changed(
    lived_in: Host, untouched: str, program: Pymachine
) -> None:
    lived_in.restore("lived-in")
    failed = program(*options(lived_in, "far", user="guarded"), code=1)
    assert "cannot become root without a password; nothing was changed" in failed.stderr
    assert "NOPASSWD" in failed.stderr
    assert lived_in.run(LISTING) == untouched
    assert program("ls", "-q").stdout == ""


def test_a_changed_host_key_is_refused(host: Host, provisioned: Pymachine, program: Pymachine) -> None:
    host.restore("provisioned")
    shutil.copytree(provisioned.store, program.store, dirs_exist_ok=True)
    new_key = "rm /etc/ssh/ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
    host.run(f"{new_key} && systemctl restart ssh")
    for words in (["provision", "far"], ["--native-ssh", "provision", "far"]):
        failed = program(*words, code=1)
        assert "shows another SSH host key than the one that was pinned" in failed.stderr
        assert "known_hosts" in failed.stderr
    assert program("ssh", "far", "true", code=None).code != 0
    (program.store / "machines" / "far" / "known_hosts").unlink()
    assert "The host key is SHA256:" in program("--native-ssh", "provision", "far").stdout
    assert program("ssh", "far", "hostname").stdout == "found\n"


def test_a_docker_machine_machine_works_and_can_be_provisioned(lived_in: Host, program: Pymachine) -> None:
    lived_in.restore("lived-in")
    docker_machine.generic(program.store, "old-far", lived_in)
    assert program("ls", "-f", "{{.Name}} {{.State}} {{.DockerVersion}}").stdout.startswith("old-far Running v26.")
    assert with_docker(program, "old-far", "docker ps -aq").stdout
    assert program("ssh", "old-far", "hostname").stdout == "found\n"
    program("provision", "old-far")
    assert (
        lived_in.run("ls /etc/systemd/system/docker.service.d")
        == "10-machine.conf.before-pymachine\nzz-pymachine.conf\n"
    )
    assert "provider=generic" in with_docker(program, "old-far", "docker info -f '{{.Labels}}'").stdout
    assert "nothing was changed" in program("provision", "old-far").stdout
    began = lived_in.run("systemctl show -p ActiveEnterTimestampMonotonic docker")
    output = program("upgrade", "old-far").stdout
    assert "Upgrading docker..." in output
    assert "Restarting docker..." in output
    assert lived_in.run("systemctl show -p ActiveEnterTimestampMonotonic docker") != began
    assert with_docker(program, "old-far", "docker ps -aq").stdout


# -- shared folders ----------------------------------------------------------------------------------------------


def test_folders_are_shared_with_a_host(lived_in: Host, untouched: str, program: Pymachine) -> None:
    lived_in.restore("lived-in")
    work, read, more = (program.home / name for name in ("work", "read only", "more"))
    for folder in (work, read, more):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    with proxy_to(lived_in.ssh_port) as proxy:
        shares = ("--share", str(work), "--share", f"{read}:/srv/source:ro")
        output = program(*options(lived_in, *shares, "far", port=proxy.port)).stdout
        assert "Installing SSHFS for the shared folders..." in output
        assert "Mounting the shared folders..." in output
        check_container(
            program,
            f"-v {work}:/src -v /srv/source:/source",
            "busybox cat /src/file /source/file; echo made > /src/new; busybox chown 1234 /src/new",
            "workread only",
        )
        assert (work / "new").read_text() == "made\n"
        assert (work / "new").stat().st_uid == work.stat().st_uid
        check_container(
            program,
            f"-u 1234 -v {work}:/src -v /srv/source:/source",
            "busybox touch /src/newer /source/newer 2>&1 | busybox grep -c -e 'Permission denied' -e 'Read-only'",
            "2\n",
        )

        # The connection is made again, and sees the changes since.
        connections = proxy.connections
        proxy.cut()
        (work / "file").write_text("changed")
        until(
            lambda: (
                proxy.connections >= connections + 2
                and lived_in.run(f"cat {work}/file /srv/source/file", code=None) == "changedread only"
            ),
            deadline=SHARE_SECONDS,
            what="the folder to be mounted again",
        )
        check_container(program, f"-v {work}:/src", "busybox cat /src/file", "changed")

        # Shares change while the machine runs.
        output = program("modify", "--share", f"{more}:/srv/more", "--unshare", "/srv/source", "far").stdout
        assert "Restarting" not in output
        assert "/srv/source" not in mounts(lived_in)
        check_container(
            program, f"-v {work}:/src -v /srv/more:/more", "busybox cat /src/file /more/file", "changedmore"
        )
        program("modify", "--unshare", "/srv/more", "far")
        lived_in.run("rmdir /srv/more")

        # `restart` reboots the host, and waits for its engine and the folders.
        before_reboot = lived_in.run(BOOT_ID)
        program("restart", "far")
        assert lived_in.run(BOOT_ID) != before_reboot
        check_container(program, f"-v {work}:/src", "busybox cat /src/file", "changed")
        program("rm", "-y", "--restore", "far")
        assert "fuse.sshfs" not in mounts(lived_in)
    # The interface of the container does not return with the reboot.
    changed = set(lived_in.run(LISTING).splitlines()) ^ set(untouched.splitlines())
    assert {line for line in changed if not line.startswith("veth")} == set()


def test_changes_raise_events_in_containers_of_a_host(lived_in: Host, program: Pymachine) -> None:
    lived_in.restore("lived-in")
    work, read = program.home / "work", program.home / "read only"
    for folder in (work, read):
        (folder / "inner").mkdir(parents=True)
    program(*options(lived_in, "--share", str(work), "--share", f"{read}:/srv/source:ro", "far"))
    lived_in.run(WATCHING_BOX)
    command = f"docker run -d --name watcher -v {work}:/src -v /srv/source/inner:/source watching inotifywait -m -r"
    with_docker(program, "far", f"{command} --format '%e %w%f' /src /source")
    log = program.store / "machines" / "far" / "shares.log"
    until(lambda: f"{read}/inner" in log.read_text(), deadline=SHARE_SECONDS, what="the folders to be watched")

    # `docker logs` reads the same file, and takes much longer in emulation.
    path = lived_in.run("docker inspect -f '{{.LogPath}}' watcher").strip()

    def events() -> list[str]:
        complete = lived_in.run(f"cat {path}").rpartition("\n")[0]
        return [json.loads(line)["log"].rstrip("\n") for line in complete.splitlines()]

    def await_event(event: str, number: int = 1) -> None:
        until(lambda: events().count(event) >= number, deadline=SHARE_SECONDS, what=f"{event} in {events()}")

    until(lambda: "Watches established." in events(), deadline=SHARE_SECONDS, what="inotifywait")
    for folder, point in ((work / "inner", "/src/inner"), (read / "inner", "/source")):
        (folder / "new").write_text("x")
        await_event(f"ATTRIB {point}/new")
        before = events().count(f"ATTRIB {point}/new")
        (folder / "new").write_text("changed")
        await_event(f"ATTRIB {point}/new", before + 1)
        (folder / "new").rename(folder / "moved")
        await_event(f"ATTRIB {point}/moved")
        before = events().count(f"ATTRIB,ISDIR {point}/")
        (folder / "moved").unlink()
        await_event(f"ATTRIB,ISDIR {point}/", before + 1)

    # A change of the container's own raises no second event.
    with_docker(program, "far", "docker exec watcher touch /src/inner/own")
    await_event("CLOSE_WRITE,CLOSE /src/inner/own")
    own = events().count("ATTRIB /src/inner/own")
    (work / "inner" / "last").write_text("x")
    await_event("ATTRIB /src/inner/last")
    assert events().count("ATTRIB /src/inner/own") == own

    # A container cannot write to the read-only folder, although the script sets owners there.
    with_docker(program, "far", "! docker exec watcher touch /source/more")
    assert list((read / "inner").iterdir()) == []
    program("rm", "-y", "--restore", "far")
    assert "fuse.sshfs" not in mounts(lived_in)


def check_container(program: Pymachine, volumes: str, command: str, expected: str) -> None:
    """Run a command in a container, and compare its output."""
    line = f"docker run --rm {volumes} box /bin/busybox sh -c {shlex.quote(command)}"
    assert with_docker(program, "far", line).stdout == expected


def mounts(host: Host) -> str:
    return host.run("grep fuse.sshfs /proc/self/mountinfo || true")


# -- power --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"), [("stop", 'Machine "far" was stopped.'), ("kill", 'Machine "far" was killed.')]
)
def test_a_host_can_be_switched_off_and_start_is_not_supported(
    host: Host, program: Pymachine, command: str, message: str
) -> None:
    host.restore("bare")
    docker_machine.record(program.store, "far", host)
    assert message in program(command, "far").stdout
    assert program("status", "far").stdout == "Stopped\n"
    assert "generic driver does not support start" in program("start", "far", code=1).stderr
    assert "Host is not running" in program("provision", "far", code=1).stderr
    assert 'Machine "far" is already stopped.' in program(command, "far", code=1).stderr
    host.switch_on("bare")
