"""Named templates, with a driver whose frozen machines are small files, and steps that are real shell commands."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_templates_clones_and_prune import Copying, request

from pymachine.cli import main as main_module
from pymachine.docker import api, daemon_json
from pymachine.driver import registry
from pymachine.driver.contract import BootRequest, Json, State
from pymachine.errors import (
    DriverError,
    HostNotRunningError,
    StaleTemplateError,
    TemplateError,
    UnsupportedError,
    UsageError,
)
from pymachine.hosts import (
    build_named_template,
    create_from_template,
    identity,
    named_templates,
    templates,
    trusted_cas,
)
from pymachine.hosts.build_named_template import PreparationError, Steps
from pymachine.hosts.create import create
from pymachine.hosts.create_from_template import TemplateUnusableError
from pymachine.hosts.freeze import freeze
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.shares import ShareRequest
from pymachine.hosts.template_contents import Contents
from pymachine.hosts.templates import NamedTemplate, TemplateNotFoundError
from pymachine.store.origins import FLAG, Origin
from pymachine.store.record import EngineOptions
from pymachine.store.store import Store
from support.reporters import RecordingReporter

IMAGES = [{"RepoTags": ["web:1", "web:latest"], "Size": 1000}, {"RepoTags": None, "Size": 5}]
SWARM = {"LocalNodeState": "inactive"}
CONTAINERS = [{"Names": ["/web"], "Image": "web:1"}]


class Freezing(Copying):
    """A driver that can freeze machines, too."""

    seeds: ClassVar[list[bytes]] = []

    def freeze(self, folder: Path, request: BootRequest) -> Mapping[str, Json]:
        self.seeds.append(request.seed)
        (folder / "memory").write_bytes(b"m" * 4096)
        self._do("freeze a copy")
        return {"Shape": {"cpus": 2}}

    def create_from_frozen(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        self._do("clone")
        if facts["Shape"] != {"cpus": 2}:
            raise StaleTemplateError("the hypervisor has changed")
        assert (folder / "memory").stat().st_size == 4096
        self.world[self.machine.name] = State.RUNNING


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    for kept in ("world", "fails", "done", "broken", "machine_fault", "seeds"):
        getattr(Freezing, kept).clear()
    monkeypatch.delenv("PYMACHINE_CACHE", raising=False)
    monkeypatch.setattr(registry, "load", lambda name: Freezing)
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    answers = {"/images/json": IMAGES, "/containers/json": CONTAINERS}
    monkeypatch.setattr(api, "get_list", lambda *args, path, **others: answers[path])
    monkeypatch.setattr(api, "get", lambda *args, **others: {"Swarm": SWARM})
    return Hosts(Store(tmp_path), reporter=RecordingReporter())


@pytest.fixture
def web(hosts: Hosts) -> NamedTemplate:
    """A template of the running machine `dev`."""
    create(hosts, request("dev", engine=EngineOptions(labels=["color=red"])))
    Freezing.done.clear()
    return freeze(hosts, "dev", "web")


def of_template(name: str = "one", **changed: object) -> Any:
    return request(name, named_template="web", **changed)


def change_manifest(template: NamedTemplate, **changed: object) -> None:
    path = template.directory / templates.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def left_over(hosts: Hosts) -> list[str]:
    return [path.name for path in templates.directory(hosts.store.root).glob(".tmp-*")]


def test_a_template_describes_what_is_in_it(hosts: Hosts, web: NamedTemplate) -> None:
    found = named_templates.find(hosts.store.root, "web")
    assert found.contents.to_json() == {
        "Images": [{"Names": ["web:1", "web:latest"], "SizeBytes": 1000}, {"Names": [], "SizeBytes": 5}],
        "Containers": [{"Name": "web", "Image": "web:1"}],
    }
    assert (found.machine, found.recipe, found.shape) == ("dev", {}, {"cpus": 2})
    assert found.record.engine.labels == ["color=red"]
    assert hosts.open("dev").state() is State.RUNNING
    assert templates.damage(found) == ""


def test_its_seed_has_nothing_of_the_machine(hosts: Hosts, web: NamedTemplate) -> None:
    assert Freezing.seeds[-1] == (web.directory / "seed.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(Freezing.seeds[-1])) as archive:
        assert sorted(archive.getnames()) == ["daemon.json", "engine.args", "engine.env", "engine.restart"]
    machine = hosts.open("dev").directory
    keys = [path.read_bytes() for path in machine.iterdir() if path.is_file() and "key" in path.name]
    assert keys
    everything = b"".join(path.read_bytes() for path in web.directory.iterdir())
    assert not [key for key in keys if key.strip() in everything]


def test_members_of_an_identity_that_are_shared_are_kept() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("hostname", "machine-id", "authorized_keys", "ssh_host_ed25519_key", "tls/ca.pem", "daemon.json"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        archive.addfile(tarfile.TarInfo("ca-certificates.pem"), io.BytesIO())
    with tarfile.open(fileobj=io.BytesIO(identity.shared(buffer.getvalue()))) as archive:
        assert sorted(archive.getnames()) == ["ca-certificates.pem", "daemon.json"]


@pytest.mark.parametrize(
    "name", ["", ".web", "-web", "a b", "a/b", "..", "a" * 64, "qemu-0123456789ab", "web\n", "wéb"]
)
def test_names_that_no_template_can_have(hosts: Hosts, name: str) -> None:
    with pytest.raises(TemplateError, match="cannot be called"):
        freeze(hosts, "dev", name)


def test_only_a_running_machine_is_frozen(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    create(hosts, request("dev"))
    hosts.open("dev").driver.kill()
    with pytest.raises(HostNotRunningError):
        freeze(hosts, "dev", "web")
    monkeypatch.setattr(registry, "load", lambda name: Copying)
    with pytest.raises(UnsupportedError):
        freeze(hosts, "dev", "web")


@pytest.mark.parametrize(
    "problem", [DriverError("no memory"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failure_leaves_the_older_template(
    hosts: Hosts, web: NamedTemplate, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Freezing, folder: Path, request: BootRequest) -> Mapping[str, Json]:
        (folder / "memory").write_bytes(b"half")
        raise problem

    monkeypatch.setattr(Freezing, "freeze", failing)
    expected = TemplateError if isinstance(problem, OSError) else type(problem)
    with pytest.raises(expected):
        freeze(hosts, "dev", "web")
    assert named_templates.find(hosts.store.root, "web").made == web.made
    assert templates.damage(web) == ""
    assert left_over(hosts) == []


def test_an_engine_that_lists_nonsense_is_an_error(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    create(hosts, request("dev"))
    for nonsense in ([1], [{"Names": [], "Image": "a"}], [{"RepoTags": 5, "Size": "x"}], [None]):
        monkeypatch.setattr(api, "get_list", lambda *args, path, answer=nonsense, **others: answer)
        with pytest.raises(api.EngineError, match="unknown form"):
            freeze(hosts, "dev", "web")


def test_what_an_engine_lists_is_printable_and_limited() -> None:
    images = [{"RepoTags": ["a\x1b[2J\nb"], "Size": 1}] * 3000
    contents = Contents.of_engine(images, [{"Names": ["/\x07"], "Image": "i\r"}])
    assert len(contents.images) == 200
    assert all(text.isprintable() for text in (contents.images[0].names[0], contents.containers[0].name))


def test_a_machine_from_a_template(hosts: Hosts, web: NamedTemplate) -> None:
    Freezing.done.clear()
    asked = EngineOptions(labels=["size=small"], registry_mirror=["https://mirror"])
    machine = create_from_template.create(hosts, of_template(engine=asked, sans=("name",)))
    assert Freezing.done == ["clone"]
    assert machine.name == "one"
    assert machine.engine.labels == ["color=red", "size=small"]
    assert machine.engine.registry_mirror == ["https://mirror"]
    assert machine.auth.server_cert_sans == ["name"]
    assert hosts.open("one").driver.config["IPAddress"] != hosts.open("dev").driver.config["IPAddress"]
    assert hosts.open("one").state() is State.RUNNING


def test_without_a_template_a_machine_is_created_as_ever(hosts: Hosts) -> None:
    create_from_template.create(hosts, request("one"))
    assert "resume" in Freezing.done


def test_a_template_is_looked_for_by_its_name(hosts: Hosts, web: NamedTemplate) -> None:
    with pytest.raises(TemplateNotFoundError, match='no template "other"'):
        create_from_template.create(hosts, request("one", named_template="other"))
    unnamed = next(each for each in templates.find_all(hosts.store.root) if not isinstance(each, NamedTemplate))
    with pytest.raises(TemplateNotFoundError, match="no images or containers"):
        create_from_template.create(hosts, request("one", named_template=unnamed.name))
    assert hosts.store.names() == ["dev"]


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": EngineOptions(storage_driver="vfs")},
        {"engine": EngineOptions(env=["A=b"])},
        {"engine": EngineOptions(ipv6=True)},
        {"engine": EngineOptions(arbitrary_flags=["mtu=1400"])},
        {"origins": {"ca-cert": Origin(FLAG, "--ca-cert")}},
        {"origins": {"container-proxy": Origin(FLAG, "--container-proxy")}},
        {"driver_name": "other", "origins": {"driver": Origin(FLAG, "--driver")}},
        {"origins": {"remembering-memory": Origin(FLAG, "--remembering-memory")}},
    ],
)
def test_options_that_a_running_engine_cannot_take_are_refused(
    hosts: Hosts, web: NamedTemplate, changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymachine.driver.options import Option, OptionKind

    option = Option(name="remembering-memory", help="x", kind=OptionKind.INTEGER, default=1)
    monkeypatch.setattr(Freezing, "options", classmethod(lambda cls: [option]))
    with pytest.raises(UsageError):
        create_from_template.create(hosts, dataclasses.replace(of_template(), **changed))
    assert hosts.store.names() == ["dev"]


def test_a_stale_or_damaged_template_is_never_booted_without_its_images(hosts: Hosts, web: NamedTemplate) -> None:
    change_manifest(web, facts={"Shape": {"cpus": 9}})
    Freezing.done.clear()
    with pytest.raises(TemplateUnusableError, match="the hypervisor has changed") as caught:
        create_from_template.create(hosts, of_template())
    assert "pymachine template create web --from MACHINE" in caught.value.hint
    assert Freezing.done == ["clone", "remove"]
    (web.directory / "memory").write_bytes(b"n" * 4096)
    assert templates.damage(named_templates.find(hosts.store.root, "web")) == "memory has another content"
    with pytest.raises(TemplateUnusableError, match="memory"):
        create_from_template.create(hosts, of_template())
    assert hosts.store.names() == ["dev"]
    assert named_templates.find(hosts.store.root, "web").made == web.made


def test_a_template_whose_engine_would_be_started_in_another_way_now_is_stale(
    hosts: Hosts, web: NamedTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = daemon_json.content
    monkeypatch.setattr(daemon_json, "content", lambda options, **others: (real(options, **others)[0] | {"mtu": 1}, []))
    with pytest.raises(TemplateUnusableError, match="starts its engine in another way"):
        create_from_template.create(hosts, of_template())
    assert hosts.store.names() == ["dev"]


def test_other_ca_certificates_than_the_templates_are_a_warning(
    hosts: Hosts, web: NamedTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted_cas, "of_all_machines", lambda store: ["-----BEGIN CERTIFICATE-----\n"])
    create_from_template.create(hosts, of_template())
    assert isinstance(hosts.reporter, RecordingReporter)
    assert "CA certificates in config.toml are not those of the template" in "\n".join(hosts.reporter.lines)


def test_a_member_of_a_swarm_is_refused(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    create(hosts, request("dev"))
    monkeypatch.setitem(SWARM, "LocalNodeState", "active")
    with pytest.raises(UnsupportedError, match="member of a swarm"):
        freeze(hosts, "dev", "web")


def test_a_failed_clone_is_removed_and_the_template_kept(hosts: Hosts, web: NamedTemplate) -> None:
    Freezing.broken["clone"] = 1
    with pytest.raises(DriverError, match="clone does not work"):
        create_from_template.create(hosts, of_template())
    assert hosts.store.names() == ["dev"]
    assert named_templates.find(hosts.store.root, "web").made == web.made


def test_a_template_that_is_replaced_meanwhile_is_used_whole(
    hosts: Hosts, web: NamedTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Freezing.create_from_frozen

    def slow(self: Freezing, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        real(self, folder, facts, request)
        if Freezing.done.count("clone") == 1:
            freeze(hosts, "dev", "web")

    Freezing.done.clear()
    monkeypatch.setattr(Freezing, "create_from_frozen", slow)
    create_from_template.create(hosts, of_template())
    assert Freezing.done == ["clone", "freeze a copy", "remove", "clone"]


def test_a_template_that_is_removed_meanwhile_harms_no_machine(
    hosts: Hosts, web: NamedTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Freezing.create_from_frozen

    def then_removed(self: Freezing, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        real(self, folder, facts, request)
        templates.remove(web)

    monkeypatch.setattr(Freezing, "create_from_frozen", then_removed)
    create_from_template.create(hosts, of_template())
    assert hosts.open("one").state() is State.RUNNING
    with pytest.raises(TemplateNotFoundError):
        create_from_template.create(hosts, of_template("two"))


def test_prune_leaves_named_templates(hosts: Hosts, web: NamedTemplate) -> None:
    assert [each.name for each in templates.prune(hosts.store.root, unused_seconds=0)] != []
    assert [each.name for each in templates.find_all(hosts.store.root)] == ["web"]


@pytest.mark.parametrize(
    "changed",
    [
        {"contents": {"Images": [{"Names": [1]}], "Containers": []}},
        {"contents": None},
        {"from": []},
        {"shape": None},
        {"files": {}},
        {"format": 4},
        {"format": "3"},
    ],
)
def test_an_incomplete_manifest_is_no_template(hosts: Hosts, web: NamedTemplate, changed: Any) -> None:
    change_manifest(web, **changed)
    with pytest.raises(TemplateNotFoundError):
        named_templates.find(hosts.store.root, "web")


# -- the commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def call(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(hosts.store.root))
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        return main_module.main(["pymachine", *words]), *capsys.readouterr()

    return run


def test_show_ls_and_verify(call: Any, web: NamedTemplate) -> None:
    shown = call("template", "show", "web")[1].splitlines()
    assert {"Name: web", "CPUs: 2", "Made from: machine dev", "Container: web (web:1)"} <= set(shown)
    assert "Image: web:1, web:latest (1000 B)" in shown
    assert "Image: <none> (5 B)" in shown
    rows = {line.split()[0]: line.split() for line in call("template", "ls")[1].splitlines()}
    assert rows["NAME"][5:7] == ["IMAGES", "CONTAINERS"]
    # The columns of memory, disk and accelerator are two words, two words and none, since this driver has none.
    assert rows["web"][6:8] == ["2", "1"]
    assert call("template", "verify")[:2] == (
        0,
        "".join(f"{name}: intact\n" for name in sorted(rows.keys() - {"NAME"})),
    )
    (web.directory / "memory").write_bytes(b"n" * 4096)
    code, out, err = call("template", "verify")
    assert (code, "web: intact" in out) == (1, False)
    assert "the template web is damaged: memory has another content" in err
    change_manifest(web, files={"../x": 1})
    assert "the template web is damaged: " in call("template", "verify", "web")[2]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["create", "--template", "web", "--no-template", "x"], "--template and --no-template exclude each other"),
        (["template", "build", "--pull", "busybox"], "--pull is for templates with a name"),
        (["template", "build", "--exec", "true"], "--exec is for templates with a name"),
        (["template", "build", "a", "b"], "Too many arguments given"),
        (["template", "create", "web"], "Missing option '--from'"),
        (["template", "show", "web"], 'no template "web"'),
        (["template", "verify", "web"], 'no template "web"'),
    ],
)
def test_words_that_do_not_fit_are_refused(call: Any, words: list[str], problem: str) -> None:
    code, _, err = call(*words)
    assert code != 0
    assert problem in err


# -- templates that are built --------------------------------------------------------------------------------------


def build(hosts: Hosts, folder: Path, *, name: str = "web", base: str = "", **steps: Any) -> NamedTemplate:
    return build_named_template.build(
        hosts,
        name,
        request("template", shares=ShareRequest(), named_template=base),
        Steps(folder=folder, **steps),
        create_from_template.create,
    )


def test_commands_run_with_the_environment_of_the_machine(hosts: Hosts, tmp_path: Path) -> None:
    template = build(hosts, tmp_path, execute=["env > variables; pwd > folder", "echo second > order"])
    variables = dict(line.split("=", 1) for line in (tmp_path / "variables").read_text().splitlines() if "=" in line)
    assert variables["DOCKER_HOST"].startswith("tcp://127.9.")
    assert variables["DOCKER_TLS_VERIFY"] == "1"
    assert variables["DOCKER_MACHINE_NAME"].startswith("template-")
    assert Path(variables["DOCKER_CERT_PATH"]).parent == hosts.store.root
    assert (tmp_path / "folder").read_text().strip() == str(tmp_path)
    assert (tmp_path / "order").read_text() == "second\n"
    assert hosts.store.names() == []
    assert template.machine == ""
    assert template.recipe["exec"] == ["env > variables; pwd > folder", "echo second > order"]


def test_a_command_that_fails_leaves_nothing_but_its_exit_code(
    hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = build(hosts, tmp_path)
    with pytest.raises(PreparationError, match="echo why; exit 7 failed with exit code 7") as caught:
        build(hosts, tmp_path, execute=["echo why; exit 7", "touch never"])
    assert caught.value.exit_code == 7
    assert "why\n" in capfd.readouterr().err
    assert not (tmp_path / "never").exists()
    assert hosts.store.names() == []
    assert named_templates.find(hosts.store.root, "web").made == old.made


def test_a_client_pulls_and_loads(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tmp_path / "bin/docker"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n[ "$1" != load ] || cat >> {tmp_path}/calls\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    (tmp_path / "images.tar").write_text("archive\n")
    build(hosts, tmp_path, pull=["busybox:1"], load=[tmp_path / "images.tar"])
    assert (tmp_path / "calls").read_text() == "pull busybox:1\nload\narchive\n"
    client.write_text("#!/bin/sh\necho denied >&2\nexit 1\n")
    with pytest.raises(PreparationError, match="docker pull secret failed with exit code 1"):
        build(hosts, tmp_path, pull=["secret"])


def test_files_and_the_client_are_looked_for(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreparationError, match=r"missing\.tar is no file"):
        build(hosts, tmp_path, load=[tmp_path / "missing.tar"])
    assert Freezing.done == []  # no machine was made for it
    (tmp_path / "images.tar").write_text("archive\n")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PreparationError, match="needs a docker client"):
        build(hosts, tmp_path, load=[tmp_path / "images.tar"])
    assert hosts.store.names() == []


def test_a_stale_template_is_made_again_by_its_recipe(hosts: Hosts, tmp_path: Path) -> None:
    old = build(hosts, tmp_path, execute=["echo built >> builds"])
    change_manifest(old, facts={"Shape": {"cpus": 9}})
    create_from_template.create(hosts, of_template())
    assert (tmp_path / "builds").read_text() == "built\n" * 2
    assert named_templates.find(hosts.store.root, "web").made > old.made
    assert hosts.store.names() == ["one"]
    (old.directory / "memory").write_bytes(b"short")
    create_from_template.create(hosts, of_template("two"))
    assert (tmp_path / "builds").read_text() == "built\n" * 3


def test_a_recipe_that_fails_is_an_error_with_its_exit_code(hosts: Hosts, tmp_path: Path) -> None:
    old = build(hosts, tmp_path, execute=["test ! -e broken || exit 9"])
    change_manifest(old, facts={"Shape": {"cpus": 9}})
    (tmp_path / "broken").touch()
    with pytest.raises(PreparationError, match="the template web cannot be made again: ") as caught:
        create_from_template.create(hosts, of_template())
    assert caught.value.exit_code == 9
    assert hosts.store.names() == []


def test_a_recipe_that_cannot_be_read_is_an_error(hosts: Hosts, tmp_path: Path) -> None:
    old = build(hosts, tmp_path)
    for damaged in ({"options": 1}, {"load": [1]}, {"pull": None}):
        change_manifest(old, facts={"Shape": {"cpus": 9}}, **{"from": {"recipe": {**old.recipe, **damaged}}})
        with pytest.raises(TemplateError, match="the recipe of the template web cannot be read"):
            create_from_template.create(hosts, of_template())


def test_a_template_that_another_process_has_made_again_is_used(hosts: Hosts, tmp_path: Path) -> None:
    old = build(hosts, tmp_path, execute=["echo built >> builds"])
    new = build(hosts, tmp_path, execute=["echo built >> builds"])
    assert build_named_template.rebuild(hosts, old, create_from_template.create).made == new.made
    assert (tmp_path / "builds").read_text() == "built\n" * 2


def test_a_template_can_begin_with_another_one(hosts: Hosts, tmp_path: Path) -> None:
    build(hosts, tmp_path, execute=["echo web >> builds"])
    app = build(hosts, tmp_path, name="app", base="web", execute=["echo app >> builds"])
    assert (tmp_path / "builds").read_text() == "web\napp\n"
    assert app.recipe["template"] == "web"
    assert Freezing.done[-3:] == ["clone", "freeze a copy", "remove"]
    change_manifest(app, facts={"Shape": {"cpus": 9}})
    create_from_template.create(hosts, request("one", named_template="app"))
    assert (tmp_path / "builds").read_text() == "web\napp\napp\n"
    templates.remove(named_templates.find(hosts.store.root, "web"))
    change_manifest(app, facts={"Shape": {"cpus": 9}})
    with pytest.raises(TemplateNotFoundError, match='app cannot be made again: no template "web"'):
        create_from_template.create(hosts, request("two", named_template="app"))


def test_a_template_cannot_begin_with_itself(hosts: Hosts, tmp_path: Path) -> None:
    build(hosts, tmp_path)
    build(hosts, tmp_path, name="app", base="web")
    for name, base in (("web", "web"), ("web", "app"), ("app", "app")):
        with pytest.raises(TemplateError, match=f"the template {name} cannot begin with itself"):
            build(hosts, tmp_path, name=name, base=base)


def test_a_recipe_whose_folder_is_gone_says_so(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    old = build(hosts, folder)
    folder.rmdir()
    change_manifest(old, facts={"Shape": {"cpus": 9}})
    with pytest.raises(PreparationError, match=r"cannot be made again: the folder .*/job, .* is gone"):
        create_from_template.create(hosts, of_template())


def test_steps_are_the_same_after_they_were_written(tmp_path: Path) -> None:
    steps = Steps(pull=["a"], load=[tmp_path / "b"], execute=["c"], folder=tmp_path)
    assert Steps.from_json(json.loads(json.dumps(steps.to_json()))) == steps
