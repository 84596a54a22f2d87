"""Docker contexts with a real docker client, which has its own configuration folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.docker import contexts
from pymachine.driver.contract import Endpoint
from pymachine.hosts import certificates, context_updates
from pymachine.hosts.host import Hosts
from pymachine.store.client_files import ClientFiles
from pymachine.store.store import Store
from support import fake_engine
from support.runner import Outcome, Pymachine, private_store


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pymachine]:
    with private_store() as made:
        # The library, in this process, must use the same client and configuration.
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        with fake_engine.machine(made.store):
            yield made


def listed(program: Pymachine) -> dict[str, str]:
    output = program.run(["docker", "context", "ls", "--format", "json"]).stdout
    return {row["Name"]: row["DockerEndpoint"] for row in map(json.loads, output.splitlines())}


def test_a_context_connects_to_the_machine(program: Pymachine) -> None:
    url = program("url", "intro").stdout.strip()
    output = program("context", "create", "intro")
    assert output.stdout == 'Created the docker context "intro". Use it: docker --context intro info\n'
    assert listed(program)["intro"] == url
    version: Outcome = program.run(["docker", "--context", "intro", "version", "-f", "{{.Server.Version}}"], code=None)
    assert version.stdout == f"{fake_engine.VERSION}\n", version.stderr
    assert program("context", "ls").stdout == "intro\tintro\n"
    assert program("context", "create", "intro").code == 0
    assert program("context", "rm", "intro").stdout == 'Removed the docker context "intro".\n'
    assert "intro" not in listed(program)
    assert "has no docker context" in program("context", "rm", "intro", code=1).stderr


def test_a_context_of_the_user_is_not_changed(program: Pymachine) -> None:
    program.run(["docker", "context", "create", "intro", "--docker", "host=tcp://127.0.0.1:9"])
    refused = program("context", "create", "intro", code=1)
    assert refused.stderr.startswith('there is a docker context "intro" already\nHint: Choose another name')
    assert "docker context rm intro" in refused.stderr
    assert listed(program)["intro"] == "tcp://127.0.0.1:9"
    program("context", "create", "--name", "other", "intro")
    program("rm", "-y", "intro")
    assert sorted(listed(program)) == ["default", "intro"]
    refused = program("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "--docker-context", "intro", code=1)
    assert "already" in refused.stderr
    assert program("ls", "-q").stdout == ""


def test_a_context_for_a_socket_has_no_certificates(program: Pymachine, tmp_path: Path) -> None:
    program("create", "-d", "none", "--url", f"unix://{tmp_path}/sock", "local")
    program("context", "create", "local")
    assert listed(program)["local"] == f"unix://{tmp_path}/sock"
    output = json.loads(program.run(["docker", "context", "inspect", "local"]).stdout)
    assert output[0]["TLSMaterial"] == {}


@pytest.mark.parametrize("name", ["default", "x"])
def test_a_name_reserved_by_docker_is_refused_with_a_working_hint(program: Pymachine, name: str) -> None:
    program("rename", "intro", name)
    refused = program("context", "create", name, code=1)
    assert "docker context rm" not in refused.stderr
    hint = next(line for line in refused.stderr.splitlines() if "context create --name" in line)
    words = hint.rpartition("pymachine ")[2].replace("OTHER", "other").split()
    program(*words)
    assert listed(program)["other"] == program("url", name).stdout.strip()
    program("rm", "-y", name)
    refused = program("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "--docker-context", name, code=1)
    assert f"then: pymachine context create --name OTHER {name}" in refused.stderr
    assert program("ls", "-q").stdout == ""


def test_a_rename_does_not_change_other_contexts(program: Pymachine) -> None:
    program("context", "create", "intro")
    url = listed(program)["intro"]
    program.run(["docker", "context", "create", "theirs", "--docker", "host=tcp://127.0.0.1:9"])
    program("rename", "intro", "theirs")
    assert (listed(program)["theirs"], listed(program)["intro"]) == ("tcp://127.0.0.1:9", url)
    program("rename", "theirs", "default")
    program("rm", "-y", "default")
    assert sorted(listed(program)) == ["default", "theirs"]


def test_a_context_is_renamed_with_its_machine(program: Pymachine) -> None:
    program("context", "create", "intro")
    program("rename", "intro", "other")
    assert sorted(listed(program)) == ["default", "other"]
    assert (
        program("context", "ls", "--json").stdout
        == json.dumps([{"Name": "other", "DockerContext": "other"}], indent=2) + "\n"
    )


def test_a_context_has_the_current_certificates(program: Pymachine) -> None:
    program("context", "create", "intro")
    hosts = Hosts(Store(program.store))
    certificates.renew_authority(hosts)
    folder = program.store / "machines" / "intro"
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).write_bytes((program.store / "certs" / name).read_bytes())
    context_updates.refresh(hosts.open("intro"))
    kept = list((program.home / ".docker" / "contexts" / "tls").rglob("ca.pem"))
    assert [path.read_bytes() for path in kept] == [(folder / "ca.pem").read_bytes()]


def test_certificate_paths_may_have_commas_and_quotes(program: Pymachine, tmp_path: Path) -> None:
    folder = tmp_path / 'a, "b"'
    folder.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).write_bytes((program.store / "machines" / "intro" / name).read_bytes())
    contexts.put("odd", Endpoint("127.0.0.1"), machine="intro", certificates=ClientFiles.in_folder(folder))
    assert listed(program)["odd"] == "tcp://127.0.0.1:2376"
    contexts.remove("odd", machine="intro")
    contexts.remove("odd", machine="intro")


def test_a_missing_docker_client_is_reported(program: Pymachine) -> None:
    refused = program("context", "create", "intro", code=1, env={"PATH": "/nowhere"})
    assert "docker: command not found" in refused.stderr
    # `rm` removes a machine even if its context cannot be removed.
    program("context", "create", "intro")
    gone = program("rm", "-y", "intro", env={"PATH": "/nowhere"})
    assert 'The docker context "intro" could not be removed' in gone.stdout
    assert program("ls", "-q").stdout == ""


def test_docker_variables_do_not_affect_contexts(program: Pymachine) -> None:
    program("context", "create", "intro", env={"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CONTEXT": "nosuch"})
    assert "intro" in listed(program)
    environ = {**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"}
    assert subprocess.run(["docker", "context", "ls"], env=environ, capture_output=True, check=False).returncode == 0


def test_a_user_context_named_in_a_record_is_not_changed_or_removed(program: Pymachine) -> None:
    """A record may come from elsewhere and name a context that pymachine did not make."""
    program.run(["docker", "context", "create", "mine", "--docker", "host=tcp://127.0.0.1:9"])
    store = Store(program.store)
    machine = store.load("intro")
    machine.context = "mine"
    store.save(machine)
    with pytest.raises(contexts.ContextExistsError, match="was not made by pymachine for this machine"):
        contexts.put("mine", Endpoint("127.0.0.2"), machine="intro", certificates=ClientFiles.in_folder(program.store))
    removed = program("rm", "-y", "intro")
    assert 'The docker context "mine" could not be removed' in removed.text
    assert listed(program)["mine"] == "tcp://127.0.0.1:9"


def test_a_context_with_a_chosen_name_keeps_it_when_its_machine_is_renamed(program: Pymachine) -> None:
    program("context", "create", "--name", "fixed", "intro")
    program("rename", "intro", "outro")
    program("context", "create", "--name", "fixed", "outro")
    program("rm", "-y", "outro")
    assert "fixed" not in listed(program)
