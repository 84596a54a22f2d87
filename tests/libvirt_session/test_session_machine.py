"""A machine on a user's libvirt: containers, their ports, a restart."""

from __future__ import annotations

import json
from pathlib import Path

from pymachine.driver.kit import identity_channel
from pymachine.system.wait import until
from support import ssh_shares
from support.libvirtd import SESSION, Daemon, virsh
from support.runner import Pymachine

CURL = "curl -sS --retry 30 --retry-delay 1 --retry-all-errors --max-time 20"
SERVE = "sh -c 'echo it works > /tmp/index.html; httpd -f -p {} -h /tmp'"
PORT = f"<channel type='unix'><target type='virtio' name='{identity_channel.CONTAINERS_PORT}'/></channel>"


def test_a_published_port_works_before_and_after_a_restart(intro: Pymachine) -> None:
    container = intro.shell(f"docker run -d -p 80 alpine:3.2 {SERVE.format(80)}").stdout.strip()
    before = intro("env", "intro").stdout
    assert page(intro, published(intro, container)) == "it works\n"
    until(lambda: min(queues(intro)) > 1, deadline=30, what="longer queues")
    assert problems(intro) == [""]
    # Like a machine from before the domain had the port on which the guest reports its containers.
    virsh("detach-device", "intro", "/dev/stdin", "--config", uri=SESSION, stdin=PORT)
    assert identity_channel.CONTAINERS_PORT not in virsh("dumpxml", "intro", "--inactive", uri=SESSION)
    intro("restart", "intro")
    assert intro("env", "intro").stdout == before
    intro.shell(f"docker start {container}")
    assert page(intro, published(intro, container)) == "it works\n"
    intro.shell(f"docker rm -f {container}")


def test_other_ports_are_forwarded_and_survive_a_restart_of_libvirtd(intro: Pymachine, daemon: Daemon) -> None:
    """One port is published on the machine's address, the other belongs to a container with host networking."""
    own = "$(pymachine ip intro)"
    intro.shell(f"docker run -d --name own -p {own}:8888:80 alpine:3.2 {SERVE.format(80)}")
    intro.shell(f"docker run -d --name net --net=host alpine:3.2 {SERVE.format(8889)}")
    assert page(intro, 8888) == "it works\n"
    assert page(intro, 8889) == "it works\n"
    daemon.stop()
    assert page(intro, 8888) == "it works\n"
    daemon.start()
    intro.shell("docker rm -f net")
    until(lambda: problems(intro) == [""], deadline=60, what="the port of a container that ended to be closed")
    assert page(intro, 8888) == "it works\n"
    # The tutorial, which may run next, expects no other containers.
    intro.shell("docker rm -f own")
    until(lambda: problems(intro) == [], deadline=60, what="the last port to be closed")


def test_folders_of_the_user_are_shared_over_ssh(intro: Pymachine, tmp_path: Path) -> None:
    """They are added while the machine runs, and are there again after a restart of it."""
    work, documents = tmp_path / "above" / "work", tmp_path / "documents"
    for folder in (work, documents):
        folder.mkdir(parents=True)
    intro("modify", "--share", str(work), "--share", f"{documents}:/documents:ro", "intro")
    ssh_shares.make_box(intro, "intro")
    ssh_shares.check_writable(intro, "intro", work)
    ssh_shares.check_read_only(intro, "intro", documents, "/documents")
    ssh_shares.check_events(intro, "intro", work)
    (documents / "read").unlink()
    documents.rmdir()
    intro("stop", "intro")
    outcome = intro("start", "intro")
    assert f"{documents}:/documents:ro is not shared: it does not exist" in outcome.text
    assert ssh_shares.box(intro, "intro", work, "cat host; echo again > again") == "changed\n"
    assert (work / "again").read_text() == "again\n"
    intro("modify", "--unshare", str(work), "--unshare", "/documents", "intro")
    assert intro("ssh", "intro", f"ls {work}").stdout == ""
    intro.shell("docker rmi box")


def problems(intro: Pymachine) -> list[str]:
    """Return for each port the problem that prevents its forwarding; empty if it is forwarded."""
    return [row["Problem"] for row in json.loads(intro("ports", "--json", "intro").stdout)]


def queues(intro: Pymachine) -> list[int]:
    """Return the queue length of each port on which QEMU listens for the machine: 2376, SSH, the container's."""
    address = intro("ip", "intro").stdout.strip()
    lines = intro.shell(f"ss -Hltn src {address}").stdout.splitlines()
    assert len(lines) == 3
    return [int(line.split()[2]) for line in lines]


def published(intro: Pymachine, container: str) -> int:
    """Return the port that the engine chose."""
    return int(intro.shell(f"docker port {container} 80/tcp").stdout.splitlines()[0].rpartition(":")[2])


def page(intro: Pymachine, port: int) -> str:
    return intro.shell(f'{CURL} "http://$(pymachine ip intro):{port}/"').stdout
