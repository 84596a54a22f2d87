"""The tutorial "Introduction to Docker", command by command, on a real machine with a real docker client.

A registry mirror and a package server on the loopback replace the Internet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support.container_shell import ContainerShell
from support.registry import Registry
from support.runner import Pymachine

SHELL = "docker run -i -t alpine:3.2 /bin/sh"
LOOP = """docker run -d alpine:3.2 /bin/sh -c 'while true; do echo "Hello World!"; sleep 1; done'"""
IMAGE = "ripta/nginx-static-test:1.0"
DOCKERFILE = """\
FROM alpine:3.2
MAINTAINER Ripta Pasay <ripta+docker@pasay.name>
ENV META_IMAGE_VERSION 1.0
RUN apk update
RUN apk add nginx
COPY . /usr/share/nginx/html/
RUN echo "Generated at $(date)" > /usr/share/nginx/html/VERSION
EXPOSE 80
"""
REMOVE_ALL = "docker ps -a -q | xargs docker rm"


@pytest.fixture(scope="module")
def host(intro: Pymachine) -> Pymachine:
    """The machine, with all tags of alpine pulled."""
    intro.shell("docker pull -a alpine")
    return intro


@pytest.fixture(scope="module")
def nginx_image(host: Pymachine) -> str:
    """The output of building the tutorial's sample project."""
    project = project_of(host)
    project.mkdir()
    (project / "Dockerfile").write_text(DOCKERFILE)
    (project / "index.html").write_text("<h1>It works</h1>\n")
    # The tutorial shows the output of the classic builder, which every client has.
    return host.shell(f"cd {project} && DOCKER_BUILDKIT=0 docker build -t {IMAGE} .").stdout


def project_of(host: Pymachine) -> Path:
    return host.home / "nginx-static-test"


def await_list(host: Pymachine, command: str, matches: Callable[[str], bool]) -> None:
    """Run `command`, a ``docker ps``, until its output `matches`.

    On a busy host the engine reports the end of a container before it updates its list.
    """
    until(lambda: matches(host.shell(command).stdout), deadline=60, what=f"the end of a container in {command}")


def test_env_prints_what_the_tutorial_shows(intro: Pymachine) -> None:
    lines = intro("env", "intro").stdout.splitlines()
    assert lines[0] == 'export DOCKER_TLS_VERIFY="1"'
    assert re.fullmatch(r'export DOCKER_HOST="tcp://\d+\.\d+\.\d+\.\d+:\d+"', lines[1])
    assert lines[2] == f'export DOCKER_CERT_PATH="{intro.store}/machines/intro"'
    assert lines[3] == 'export DOCKER_MACHINE_NAME="intro"'


def test_info_and_version_describe_the_machine(intro: Pymachine) -> None:
    info = intro.shell("docker info").stdout
    assert re.search(r"^ Name: intro$", info, re.MULTILINE)
    assert "Storage Driver: overlay2" in info
    assert f"provider={intro('inspect', '--format', '{{.DriverName}}', 'intro').stdout.strip()}" in info
    assert re.search(r"Operating System: .*Boot2Docker", info, re.IGNORECASE)
    version = intro.shell("docker version").stdout
    assert "Client:" in version
    assert "Server:" in version
    assert intro("version", "intro").stdout.strip() in version


def test_ssh_shows_disk_space(intro: Pymachine) -> None:
    assert "/var/lib/boot2docker" in intro("ssh", "intro", "df").stdout


def test_search_without_the_internet_fails_with_a_reason(intro: Pymachine, registry: Registry) -> None:
    """A plain registry has no search; the engine reports that and keeps working."""
    outcome = intro.shell("timeout 120 docker search library", code=None)
    assert outcome.code == 0 or "Error response from daemon" in outcome.stderr
    assert registry.catalogue() == ["library/alpine"]
    intro.shell("docker version")


def test_all_tags_of_an_image_are_pulled(host: Pymachine) -> None:
    table = host.shell("docker images --format '{{.Tag}} {{.ID}}' alpine").stdout
    ids = dict(line.split() for line in table.splitlines())
    assert set(ids) >= {"2.6", "2.7", "3.1", "3.2", "latest"}
    assert ids["3.2"] == ids["latest"] != ids["3.1"]


def test_a_shell_runs_in_a_container(host: Pymachine, package_server: str) -> None:
    with ContainerShell(host, SHELL) as shell:
        shell.wait_for_prompt()
        container = shell.run("hostname")
        assert re.fullmatch(r"[0-9a-f]{12}", container)
        assert re.search(r"^ +1 root.*/bin/sh", shell.run("ps -ef"), re.MULTILINE)
        assert "Alpine Linux 3.2" in shell.run("cat /etc/os-release")
        assert re.search(r"overlay.* /\n", shell.run("df -h") + "\n")
        assert re.search(r"^Mem: +\d+", shell.run("free -m"), re.MULTILINE)
        assert re.search(r"inet 172\.17\.0\.\d+/16", shell.run("ip a"))
        # A program can be installed. The next container does not have it: see the next test.
        request = f"curl -s {package_server}/ip"
        assert "not found" in shell.run(request)
        assert "distinct packages available" in shell.run("apk update")
        assert "Installing curl" in shell.run("apk add curl")
        assert re.fullmatch(r"[0-9]+(\.[0-9]+){3}", shell.run(request))
        shell.child.sendline("exit")
        assert shell.wait_for_exit() == 0
    await_list(host, "docker ps", lambda text: container not in text)
    assert container in host.shell(f"docker ps -a; docker rm {container}").stdout


def test_a_program_installed_in_one_container_is_not_in_another_which_can_be_restarted_and_attached(
    host: Pymachine, package_server: str
) -> None:
    with ContainerShell(host, SHELL) as shell:
        shell.wait_for_prompt()
        container = shell.run("hostname")
        assert "not found" in shell.run(f"curl -s {package_server}/ip")
        shell.child.sendline("exit 1")
        assert shell.wait_for_exit() == 1
    await_list(host, "docker ps -a", lambda text: "Exited (1)" in text)
    restarted = host.shell(f"docker restart {container}; docker ps").stdout
    assert restarted.splitlines()[0] == container
    assert re.search(rf"{container}.* Up ", restarted)
    with ContainerShell(host, f"docker attach {container}") as shell:
        shell.child.sendline("")
        shell.wait_for_prompt()
        shell.child.sendline("exit")
        assert shell.wait_for_exit() == 0
    await_list(host, "docker ps -a", lambda text: "Exited (0)" in text)
    host.shell(f"docker rm {container}")
    assert container not in host.shell("docker ps -a").stdout


def test_detached_containers_run_log_and_stop(host: Pymachine) -> None:
    container, second = host.shell(f"{LOOP}; {LOOP}").stdout.split()
    assert re.fullmatch(r"[0-9a-f]{64}", container)
    assert container[:12] in host.shell("docker ps").stdout
    until(lambda: "Hello World!" in host.shell(f"docker logs {container}").stdout, deadline=60, what="the first line")
    # `head` ends after two lines that are printed later.
    followed = host.shell(f"timeout 60 docker logs -f -n 0 {container} | head -n 2").stdout
    assert followed == "Hello World!\nHello World!\n"
    stamped = host.shell(f"timeout 60 docker logs -f -t {container} | head -n 1").stdout
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z Hello World!\n", stamped)
    top = host.shell(f"docker top {container}").stdout
    assert "PID" in top
    assert "while true" in top
    refused = host.shell(REMOVE_ALL, code=None)
    assert refused.code != 0
    assert "container is running" in refused.stderr.replace("is still running", "container is running")
    host.shell(f"docker stop -t 1 {container}; docker kill {second}")
    await_list(host, "docker ps -q", lambda text: text == "")
    host.shell(REMOVE_ALL)
    assert host.shell("docker ps -a -q").stdout == ""


def test_an_image_can_be_built(host: Pymachine, nginx_image: str) -> None:
    assert "FROM alpine:3.2" in nginx_image
    assert "Installing nginx" in nginx_image
    assert f"Successfully tagged {IMAGE}" in nginx_image
    assert re.search(r"^ripta/nginx-static-test +1\.0 ", host.shell("docker images").stdout, re.MULTILINE)


@pytest.mark.usefixtures("nginx_image")
def test_a_container_ends_with_its_first_process(host: Pymachine) -> None:
    container = host.shell(f"docker run -d -p 80 {IMAGE} nginx").stdout.strip()
    host.shell(f"docker wait {container}")
    await_list(host, "docker ps", lambda text: container[:12] not in text)
    with ContainerShell(host, f"docker run -i -t {IMAGE} /bin/sh") as shell:
        shell.wait_for_prompt()
        assert shell.run("which nginx") == "/usr/sbin/nginx"
        assert shell.run("nginx") == ""
        shell.child.sendeof()
        shell.wait_for_exit()
    host.shell(REMOVE_ALL)


@pytest.mark.usefixtures("nginx_image")
def test_a_published_port_works_before_and_after_a_restart_of_the_machine(host: Pymachine) -> None:
    container = host.shell(f"docker run -d -p 80 {IMAGE} nginx -g 'daemon off;'").stdout.strip()
    url = url_of(host, container)
    assert "It works" in fetch_page(host, f"{url}/")
    assert "Generated at " in fetch_page(host, f"{url}/VERSION")
    before = host("env", "intro").stdout

    host("stop", "intro")
    assert host("status", "intro").stdout == "Stopped\n"
    assert host("env", "intro", code=None).stdout == ""
    host("start", "intro")

    assert host("env", "intro").stdout == before
    running, rest = host.shell("docker ps -q; echo then; docker ps -a; docker images").stdout.split("then\n")
    assert running == ""
    assert container[:12] in rest
    assert IMAGE.partition(":")[0] in rest
    host.shell(f"docker start {container}")
    assert "Generated at " in fetch_page(host, f"{url_of(host, container)}/VERSION")
    host.shell(f"docker rm -f {container}")


@pytest.mark.usefixtures("nginx_image")
def test_a_page_in_a_shared_folder_is_served_as_it_is_now(host: Pymachine) -> None:
    """As with the tutorial's project mounted where its image has a copy, in machines that share the home."""
    project = project_of(host)
    mount = "-v $PWD:/usr/share/nginx/html"
    container = host.shell(
        f"cd {project}; docker run --rm -v $PWD:/src alpine:3.2 sh -c 'date > /src/VERSION'"
        f" > /dev/null; docker run -d -p 80 {mount} {IMAGE} nginx -g 'daemon off;'"
    ).stdout.strip()
    url = url_of(host, container)
    assert "It works" in fetch_page(host, f"{url}/")
    assert (project / "VERSION").read_text() in fetch_page(host, f"{url}/VERSION").replace("\r", "")
    # Of the same length, both written in place and by renaming, as editors do.
    (project / "index.html").write_text("<h1>It moves</h1>\n")
    assert "It moves" in fetch_page(host, f"{url}/")
    (project / "next").write_text("<h1>It waits</h1>\n")
    (project / "next").rename(project / "index.html")
    assert "It waits" in fetch_page(host, f"{url}/")
    host.shell(f"docker rm -f {container}")


def url_of(host: Pymachine, container: str) -> str:
    """Return the URL at the port that docker chose for the container's port 80."""
    listed = host.shell(f"docker port {container} 80/tcp").stdout.splitlines()[0]
    return f"http://{host('ip', 'intro').stdout.strip()}:{listed.rpartition(':')[2]}"


def fetch_page(host: Pymachine, url: str) -> str:
    """Fetch a page, with its headers."""
    # The port opens on the machine's address a moment after the container starts.
    retries = ["--retry", "30", "--retry-delay", "1", "--retry-all-errors", "--max-time", "20"]
    reply = host.run(["curl", "-sS", "-i", *retries, url]).stdout
    assert re.match(r"HTTP/1\.1 200 OK", reply)
    return reply
