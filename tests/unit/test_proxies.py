"""The host's proxies: from the environment to the engine, their passwords, bad input, and rewriting of loopbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pymachine.docker import daemon_json
from pymachine.driver import registry
from pymachine.driver.abilities import LoopbackReachable
from pymachine.driver.contract import MachineRef
from pymachine.driver.kit.identity_channel import activation_script
from pymachine.errors import UsageError
from pymachine.hosts import identity, proxies as of_machines
from pymachine.store import paths
from pymachine.store.proxies import Proxies, mask, of_environment
from pymachine.store.record import EngineOptions
from pymachine.store.store import Store
from pymachine.system.progress import Silent
from support import cli_calls, local_sockets, sharing
from support.cli_calls import Call
from support.sharing import Plain

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SECRET = "s3cret"
URL = f"http://ann:{SECRET}@proxy.example:3128"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    local_sockets.install(monkeypatch)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "s"))
    return Store(tmp_path / "s")


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.expecting_code(capsys, secret=SECRET)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Proxies()),
        ({"NO_PROXY": "x"}, Proxies()),
        ({"HTTP_PROXY": "proxy:3128", "no_proxy": " a,b "}, Proxies("http://proxy:3128", "", "a,b")),
        ({"https_proxy": URL, "HTTPS_PROXY": ""}, Proxies("", URL)),
        ({"HTTPS_PROXY": "socks5://[::1]:1080"}, Proxies("", "socks5://[::1]:1080")),
        ({"HTTPS_PROXY": "socks5h://[::1]:1080"}, Proxies("", "socks5h://[::1]:1080")),
    ],
)
def test_variables_are_read(variables: dict[str, str], expected: Proxies) -> None:
    assert of_environment(variables) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(f"ftp://{SECRET}@proxy", f"http://:{SECRET}@", f"http://proxy:{SECRET}", f"http://[{SECRET}", f"a\n{SECRET}"),
        *(f"http://ann:12{sign}{SECRET}@proxy:8080" for sign in "/?#"),
    ],
)
def test_bad_values_are_refused_without_their_password(value: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY is not") as raised:
        of_environment({"HTTPS_PROXY": value})
    assert SECRET not in f"{raised.value} {raised.value.hint}"


def test_the_user_and_the_password_are_masked() -> None:
    assert mask(URL) == "http://***@proxy.example:3128"
    assert mask(f"http://a:{SECRET}@b@proxy/x") == "http://***@proxy/x"
    for sign in "/?#":
        assert mask(f"http://a:12{sign}{SECRET}@proxy:8080") == "http://***@proxy:8080"
    assert mask("http://proxy:3128") == "http://proxy:3128"
    assert SECRET not in repr(Proxies(URL, URL))


class Reaching(Plain):
    """A driver whose guests reach the host's loopback."""

    def host_loopback(self) -> str:
        return "10.0.2.2"


def lines(driver: type[Plain], proxies: Proxies, tmp_path: Path) -> list[str]:
    made = driver(MachineRef("one", tmp_path, tmp_path, tmp_path / "key"), {})
    return of_machines.reachable(made, proxies, Silent()).variables().splitlines()


def test_a_proxy_on_the_loopback_is_rewritten(tmp_path: Path) -> None:
    numeric = ("127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]")
    for host in ("localhost", "proxy.localhost", *numeric):
        found = lines(Reaching, Proxies(f"http://ann:{SECRET}@{host}:8080", "https://proxy", "a, b"), tmp_path)
        assert found == [
            f"HTTP_PROXY=http://ann:{SECRET}@10.0.2.2:8080",
            "HTTPS_PROXY=https://proxy",
            "NO_PROXY=a,b,10.0.2.2,host.docker.internal",
        ]
        assert lines(Plain, Proxies(f"http://{host}:8080", "http://proxy"), tmp_path) == ["HTTPS_PROXY=http://proxy"]
        assert lines(Plain, Proxies(f"http://{host}:8080"), tmp_path) == []


def test_the_engine_gets_a_scheme_that_it_knows() -> None:
    found = Proxies("socks5h://a:1", "https://socks5h://", "b").variables()
    assert found == "HTTP_PROXY=socks5://a:1\nHTTPS_PROXY=https://socks5h://\nNO_PROXY=b\n"


def test_drivers_without_proxies_ignore_unusable_ones(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"ftp://{SECRET}@proxy")
    call("create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "far")
    assert "HTTP_PROXY is not the URL" in call("create", "one", code=1)[2]
    call("create", "--no-host-proxy", "one")


def test_which_drivers_reach_the_loopback() -> None:
    kinds = [registry.load(name) for name in registry.names()]
    assert {kind.info.name for kind in kinds if issubclass(kind, LoopbackReachable)} == {
        "qemu",
        "libvirt",
        "virtualbox",
    }
    assert [kind.info.name for kind in kinds if not of_machines.supported(kind)] == ["generic", "none"]


def test_everything_without_a_proxy_stays_so(tmp_path: Path) -> None:
    assert lines(Reaching, Proxies("http://proxy", "", "*"), tmp_path)[-1] == "NO_PROXY=*"


def test_create_modify_inspect_and_clone(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    call("create", "bare")
    assert not store.load("bare").proxies
    monkeypatch.setenv("HTTPS_PROXY", URL)
    monkeypatch.setenv("NO_PROXY", "intern.example")
    call("create", "--no-host-proxy", "none")
    assert not store.load("none").proxies
    call("create", "one")
    assert store.load("one").proxies == Proxies("", URL, "intern.example")
    shown = json.loads(call("inspect", "one")[1])["Proxies"]
    assert shown == {"HTTP": "", "HTTPS": "http://***@proxy.example:3128", "No": "intern.example"}
    for words in (("inspect", "-f", "{{.Proxies}}", "one"), ("inspect", "--origin", "none"), ("ls",), ("ls", "--json")):
        call(*words)
    call("clone", "one", "copy")
    assert store.load("copy").proxies == store.load("one").proxies
    call("stop", "one")
    call("modify", "--no-host-proxy", "one")
    assert not store.load("one").proxies
    call("modify", "--host-proxy", "one")
    assert store.load("one").proxies.https == URL
    call("modify", "--host-proxy", "--no-host-proxy", "one", code=1)
    monkeypatch.delenv("HTTPS_PROXY")
    assert "is set" in call("modify", "--host-proxy", "one", code=1)[2]
    assert (store.machine_dir("one") / paths.CONFIG).stat().st_mode & 0o77 == 0


def test_up_without_the_variables_keeps_the_proxies(
    call: Call, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = folder / "pymachine.toml"
    file.write_text("[machine]\nname = 'one'\nshares = []\nhost-proxy = true\n")
    monkeypatch.setenv("HTTPS_PROXY", URL)
    call("up")
    monkeypatch.delenv("HTTPS_PROXY")
    _, out, err = call("up", "--apply")
    assert "keeps its proxies" in out + err
    assert store.load("one").proxies.https == URL
    file.write_text("[machine]\nname = 'one'\nshares = []\nhost-proxy = false\n")
    call("up", "--apply")
    assert not store.load("one").proxies


def test_a_loopback_that_machines_do_not_reach_is_a_warning(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:{SECRET}@localhost:3128")
    _, out, err = call("create", "one")
    assert (out + err).count("HTTPS_PROXY is on this host's loopback") == 1


def test_an_engine_of_somebody_else_is_left_alone(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", URL)
    call("create", "--driver", "none", "--url", "tcp://127.0.0.1:2376", "one")
    assert not store.load("one").proxies
    call("modify", "--host-proxy", "one", code=1)


def test_a_bad_variable_creates_nothing(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"ftp://{SECRET}@proxy")
    call("create", "one", code=1)
    assert not store.exists("one")


def test_a_clone_of_a_template_with_the_same_proxies_needs_no_restart(tmp_path: Path) -> None:
    identity.make_keys(tmp_path, name="m")
    for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
        (tmp_path / name).write_text("x")
    engine = daemon_json.files(EngineOptions(), driver_name="qemu")
    variables = f"HTTP_PROXY={URL}\n"
    tar = identity.of_machine(tmp_path, hostname="m", engine=engine, proxies=variables)
    for seed, change in ((variables, "same"), ("", "restart"), ("HTTP_PROXY=http://other\n", "restart")):
        script = activation_script(tar, seed=identity.seed(engine, seed), now=0.0).decode()
        assert script.rstrip().endswith(f" {change}")
        assert ("put engine.proxies" in script) == (change != "same")
