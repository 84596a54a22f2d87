"""Host entries for OpenSSH: the text, the user's ~/.ssh/config, and the commands that keep both true.

The real client reads what pymachine writes: ``ssh -G`` prints the options that it would use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from pymachine.driver.contract import Endpoint
from pymachine.driver.kit import transactions
from pymachine.errors import DriverError
from pymachine.hosts import change_notes
from pymachine.hosts.host import Hosts
from pymachine.ssh import host_entries, user_config
from pymachine.ssh.target import Target
from pymachine.store.store import Store
from support import cli_calls, sharing
from support.cli_calls import Call
from support.sharing import Plain

USERS_OWN = b"# mine\nHost work\r\n  HostName work.example.org\n\nHost *\n  ProxyJump bastion\n  User me\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    root = home / "100% my [own] sto?re"
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(root))
    return Store(root)


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.expecting_code(capsys)


@pytest.fixture
def config(store: Store) -> Path:
    """The user's configuration file, which does not exist yet."""
    return store.root.parent / ".ssh" / "config"


def resolved(config: Path, name: str) -> dict[str, str]:
    """Return the options that OpenSSH uses for a host."""
    words = ["ssh", "-G", "-T", "-F", str(config), name]
    done = subprocess.run(words, check=True, capture_output=True, text=True, errors="surrogateescape")
    assert done.stderr == ""
    return {key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())}


def entries(store: Store) -> str:
    return (store.root / "ssh_config").read_text()


def target(**fields: object) -> Target:
    values = {
        "alias": "far",
        "host": "127.1.2.3",
        "port": 22022,
        "user": "docker",
        "key": Path("/k/id"),
        "known_hosts": Path("/k/known_hosts"),
    }
    return Target(**{**values, **fields})  # type: ignore[arg-type]


# -- entries -------------------------------------------------------------------------------------------------------


def check(tmp_path: Path, entry_of: Target) -> dict[str, str]:
    file = tmp_path / "entry"
    file.write_bytes(os.fsencode(host_entries.entry(entry_of) + USERS_OWN.decode()))
    return resolved(file, entry_of.host_alias)


def test_openssh_reads_the_options_and_no_jump_host(tmp_path: Path) -> None:
    found = check(tmp_path, target())
    assert (found["hostname"], found["port"], found["user"]) == ("127.1.2.3", "22022", "docker")
    assert (found["identityfile"], found["identitiesonly"]) == ("/k/id", "yes")
    assert (found["hostkeyalias"], found["userknownhostsfile"]) == ("far", "/k/known_hosts")
    assert found["stricthostkeychecking"] == "true"
    assert found["globalknownhostsfile"] == "/dev/null"
    assert not {"proxycommand", "proxyjump"} & found.keys()


@pytest.mark.parametrize(
    "folder",
    [
        "a b",
        "100%d",
        "%%",
        "it's",
        'a "quote"',
        "back\\slash",
        "\\\\",
        "a#b",
        "#",
        "$HOME",
        "~",
        "ü",
        "\udcff",
        "=",
        " ",
    ],
)
def test_openssh_reads_any_path(tmp_path: Path, folder: str) -> None:
    paths = {"key": Path("/k", folder, "id"), "known_hosts": Path("/k", folder, "known hosts")}
    found = check(tmp_path, target(**paths))
    # OpenSSH 9.2 expands "%%" in the name of a key only when it connects.
    assert found["identityfile"] in (str(paths["key"]), str(paths["key"]).replace("%", "%%"))
    assert found["userknownhostsfile"] == str(paths["known_hosts"])


@pytest.mark.parametrize("folder", ["${HOME}", "a\nb", "tab\t"])
def test_a_path_that_openssh_cannot_read_is_an_error(folder: str) -> None:
    with pytest.raises(host_entries.UnwritablePathError, match="cannot be written in a configuration file"):
        host_entries.entry(target(key=Path("/k", folder)))


def test_windows_paths_have_slashes() -> None:
    path = PureWindowsPath(r"C:\Users\An na\100%\id_rsa")
    assert host_entries.quoted_path(path) == '"C:/Users/An na/100%%/id_rsa"'
    assert user_config.include_line(path) == 'Include "C:/Users/An na/100?/id_rsa"'


@pytest.mark.parametrize("user", ["DOMAIN\\anna", "anna:target", "a#b", "$x"])
def test_openssh_reads_unusual_users(tmp_path: Path, user: str) -> None:
    assert check(tmp_path, target(user=user))["user"] == user


def test_an_address_may_have_a_zone(tmp_path: Path) -> None:
    assert check(tmp_path, target(host="fe80::1%eth0"))["hostname"] == "fe80::1%eth0"


def test_a_machine_without_a_key_uses_the_users_keys(tmp_path: Path) -> None:
    assert "IdentitiesOnly" not in host_entries.entry(target(key=None))
    assert check(tmp_path, target(key=None))["identitiesonly"] == "no"


def test_a_host_key_that_was_never_pinned_is_not_checked(tmp_path: Path) -> None:
    found = check(tmp_path, target(known_hosts=None))
    assert (found["stricthostkeychecking"], found["userknownhostsfile"]) == ("false", "/dev/null")


def test_a_name_that_is_no_host_name_gets_one() -> None:
    assert host_entries.entry(target(alias="my *machine")).startswith("Host my-machine-")


# -- ssh-config ----------------------------------------------------------------------------------------------------


def test_entries_are_printed(call: Call, store: Store, tmp_path: Path) -> None:
    call("create", "one", "two")
    call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "other")
    file = tmp_path / "printed"
    file.write_text(call("ssh-config")[1])
    assert "other" not in file.read_text()
    for name in ("one", "two"):
        assert resolved(file, name)["identityfile"].replace("%%", "%") == str(store.machine_dir(name) / "id_rsa")
    assert "two" not in call("ssh-config", "one")[1]
    assert "does not support SSH" in call("ssh-config", "other", code=1)[2]
    assert not (store.root / "ssh_config").exists()


def test_entries_are_printed_as_json(call: Call, store: Store) -> None:
    call("create", "one")
    (row,) = json.loads(call("ssh-config", "--json")[1])
    assert (row["Name"], row["Host"]) == ("one", "one")
    assert row["Options"]["IdentityFile"] == str(store.machine_dir("one") / "id_rsa")
    assert json.loads(call("ssh-config", "--install", "--json")[1]) == [row]
    assert json.loads(call("ssh-config", "--uninstall", "--json")[1]) == []


@pytest.mark.parametrize(
    "words", [("--install", "--uninstall"), ("--install", "one"), ("--uninstall", "one"), ("missing",)]
)
def test_wrong_arguments_change_nothing(call: Call, config: Path, words: tuple[str, ...]) -> None:
    call("create", "one")
    call("ssh-config", *words, code=1)
    assert not config.exists()


def test_install_includes_the_entries_and_uninstall_undoes_it(call: Call, config: Path, store: Store) -> None:
    call("create", "one")
    config.parent.mkdir(mode=0o755)
    config.write_bytes(USERS_OWN)
    config.chmod(0o644)
    assert "includes the entries of all machines now" in call("ssh-config", "--install")[1]
    installed = config.read_bytes()
    assert (
        installed == b'Include "' + os.fsencode(store.root.parent) + b'/100? my ?own? sto?re/ssh_config"\n' + USERS_OWN
    )
    assert config.stat().st_mode & 0o777 == 0o644
    assert (store.root / "ssh_config").stat().st_mode & 0o777 == 0o600
    found = resolved(config, "one")
    assert (found["hostname"], found["user"]) == ("127.9.9.1", "docker")
    assert "proxyjump" not in found
    assert (resolved(config, "work")["hostname"], resolved(config, "work")["user"]) == ("work.example.org", "me")
    assert "already" in call("ssh-config", "--install")[1]
    assert config.read_bytes() == installed
    assert "not included in the SSH configuration any more" in call("ssh-config", "--uninstall")[1]
    assert config.read_bytes() == USERS_OWN
    assert not (store.root / "ssh_config").exists()
    assert "were not included" in call("ssh-config", "--uninstall")[1]
    assert [path.name for path in config.parent.iterdir()] == ["config"]


def test_install_makes_a_private_file(call: Call, config: Path) -> None:
    call("create", "one")
    call("ssh-config", "--install")
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.parent.stat().st_mode & 0o777 == 0o700
    assert resolved(config, "one")["hostname"] == "127.9.9.1"


def test_a_link_stays_a_link(call: Call, config: Path, tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "ssh").write_bytes(USERS_OWN)
    config.parent.mkdir(mode=0o700)
    config.symlink_to(dotfiles / "ssh")
    call("ssh-config", "--install")
    assert config.is_symlink()
    assert (dotfiles / "ssh").read_bytes().endswith(USERS_OWN)
    call("ssh-config", "--uninstall")
    assert config.is_symlink()
    assert (dotfiles / "ssh").read_bytes() == USERS_OWN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for other users")
def test_the_owner_stays(call: Call, config: Path) -> None:
    """As after ``sudo pymachine``, by which a user's file must not become root's."""
    config.parent.mkdir(mode=0o700)
    config.write_bytes(USERS_OWN)
    os.chown(config, 1234, 1234)
    call("ssh-config", "--install")
    assert (config.stat().st_uid, config.stat().st_gid) == (1234, 1234)


def test_a_line_that_only_some_hosts_would_read_is_moved(call: Call, config: Path) -> None:
    call("create", "one")
    call("ssh-config", "--install")
    line = config.read_bytes()
    config.write_bytes(b"Host work\n  " + line)
    call("ssh-config", "--install")
    assert config.read_bytes() == line + b"Host work\n"
    config.write_bytes(b"ForwardAgent no\n" + line)  # also before all hosts
    call("ssh-config", "--install")
    assert config.read_bytes() == b"ForwardAgent no\n" + line


def test_a_file_that_cannot_be_changed_is_an_error_that_names_the_line(call: Call, config: Path, store: Store) -> None:
    config.mkdir(parents=True)
    said = call("ssh-config", "--install", code=1)[2]
    assert f"cannot change {config}" in said
    assert "Include" in said
    assert not (store.root / "ssh_config").exists()


def test_another_home_than_that_of_openssh_is_a_warning(call: Call, config: Path) -> None:
    assert f"OpenSSH reads {user_config.read_by_openssh()}, and not {config}" in call("ssh-config", "--install")[1]


# -- names of other hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("Host one\n  HostName one.example.org\n", True),
        ('host = a "one"\n\tport=2222\n', True),
        ("Host one\n  ForwardAgent yes\n", False),
        ("Host o*\n  HostName one.example.org\n", False),
        ("Host one\nHost two\n  HostName two.example.org\n", False),
        ("# Host one\n#  HostName one.example.org\n", False),
        ("Include extra/*\n", True),
        ("Host 'one\n  HostName one.example.org\n", False),
    ],
)
def test_a_host_of_the_users_keeps_its_name(call: Call, config: Path, text: str, is_taken: bool) -> None:
    (config.parent / "extra").mkdir(parents=True)
    (config.parent / "extra" / "a").write_text("Host one\n  User me\n")
    config.write_text(text)
    call("create", "one")
    said = call("ssh-config", "--install")[1]
    assert ("`ssh one` leads to the host of that name" in said) == is_taken
    if "'" not in text:
        assert (resolved(config, "one")["hostname"] == "127.9.9.1") != is_taken
    assert "Host one" in call("ssh-config", "one")[1]
    assert "leads to" not in call("restart", "one")[1]  # said once
    config.write_text(config.read_text().partition("\n")[0] + "\n")
    call("restart", "one")
    assert resolved(config, "one")["hostname"] == "127.9.9.1"


def test_configurations_that_include_each_other_end(call: Call, config: Path) -> None:
    config.parent.mkdir()
    config.write_text("Include config\n")
    call("create", "one")
    call("ssh-config", "--install")


# -- kept up to date -----------------------------------------------------------------------------------------------


def test_commands_keep_the_entries_true(call: Call, config: Path, store: Store, tmp_path: Path) -> None:
    call("ssh-config", "--install")
    call("create", "one")
    call("create", "two")
    assert resolved(config, "two")["hostname"] == store.load("two").driver["IPAddress"]
    call("clone", "one", "copy")
    assert resolved(config, "copy")["hostname"] == "127.9.9.3"
    call("stop", "one")
    assert "Host one" in entries(store)
    call("rename", "one", "uno")
    assert "Host one" not in entries(store)
    found = resolved(config, "uno")
    assert (found["hostname"], found["hostkeyalias"]) == (store.load("uno").driver["IPAddress"], "uno")
    assert str(store.machine_dir("uno")) in found["identityfile"].replace("%%", "%")
    call("export", "uno", str(tmp_path / "file"))
    call("import", str(tmp_path / "file"), "back")
    assert resolved(config, "back")["hostname"] == store.load("back").driver["IPAddress"]
    call("rm", "-y", "copy", "two")
    assert [line for line in entries(store).splitlines() if line.startswith("Host")] == ["Host back", "Host uno"]
    call("rm", "-f", "-y", "back", "uno")
    assert "Host" not in entries(store)


def test_start_takes_a_new_address_over(call: Call, config: Path, store: Store) -> None:
    call("ssh-config", "--install")
    call("create", "one")
    call("stop", "one")
    record = store.load("one")
    record.driver["IPAddress"] = "127.9.9.77"
    store.save(record)
    call("start", "one")
    assert resolved(config, "one")["hostname"] == "127.9.9.77"


def test_a_create_that_fails_leaves_no_entry(
    call: Call, config: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("ssh-config", "--install")

    def fail(*_: object) -> None:
        assert "Host one" in entries(store)
        raise DriverError("too late")

    monkeypatch.setattr("pymachine.hosts.boot._mount_shares", fail)
    call("create", "one", code=1)
    assert "Host one" not in entries(store)


def test_an_interrupted_rename_is_finished_with_its_entry(call: Call, config: Path, store: Store) -> None:
    call("create", "one")
    call("stop", "one")
    call("ssh-config", "--install")
    hosts = Hosts(store)
    change_notes.begin(hosts.open("one"), transactions.RENAME, {"Before": "one"})
    store.rename("one", "uno")
    call("start", "uno")
    assert resolved(config, "uno")["hostname"] == "127.9.9.1"
    assert "Host one" not in entries(store)


def test_a_machine_without_an_address_has_no_entry_until_it_starts(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", "one")

    def unknown(_: Plain) -> Endpoint:
        from pymachine.errors import HostNotRunningError

        raise HostNotRunningError(name="one")

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "endpoint", unknown)
        call("ssh-config", "--install")
        assert "Host one" not in entries(store)
        assert call("ssh-config") == (0, "", "")
        call("ssh-config", "one", code=1)
    call("restart", "one")
    assert "Host one" in entries(store)


@pytest.mark.parametrize("fault", ["unwritable", "unreadable", "path"])
def test_a_file_that_cannot_be_written_is_a_warning(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    call("ssh-config", "--install")
    file = store.root / "ssh_config"
    if fault == "path":
        monkeypatch.setattr(host_entries, "_UNWRITABLE", __import__("re").compile("own"))
    else:
        file.unlink()
        file.mkdir()
        if fault == "unwritable":
            monkeypatch.setattr("pymachine.hosts.ssh_config._sections", lambda _: {})
    for words in (["create", "one"], ["restart", "one"], ["stop", "one"], ["rename", "one", "uno"], ["start", "uno"]):
        said = call(*words)[1]
        assert ("SSH configuration" in said) == (words[0] != "stop")
    call("rm", "-y", "uno")
    assert store.names() == []


def test_a_store_without_installed_entries_gets_no_file(call: Call, store: Store, config: Path) -> None:
    call("create", "one")
    call("rm", "-y", "one")
    assert not (store.root / "ssh_config").exists()
    assert not config.parent.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SSHKeyPath", "/k\nProxyCommand touch /x"),
        ("SSHKeyPath", '/k" ProxyCommand'),
        ("IPAddress", "h\n ProxyCommand x"),
        ("SSHUser", 'u"'),
    ],
)
def test_a_record_cannot_add_options(call: Call, store: Store, config: Path, key: str, value: str) -> None:
    call("create", "one")
    name = "x\nHost evil"
    shutil.copytree(store.machine_dir("one"), store.machine_dir(name))
    path = store.machine_dir(name) / "config.json"
    record = json.loads(path.read_text())
    record["Driver"][key] = value
    path.write_text(json.dumps(record))
    call("ssh-config", "--install")
    lines = [line for line in entries(store).splitlines() if line and not line.startswith("#")]
    allowed = {"Host", *host_entries.options(target()), "LogLevel"}
    assert {line.split()[0] for line in lines} <= allowed
    assert [line for line in lines if line.strip().startswith("ProxyCommand")] in (
        ["    ProxyCommand none"],
        ["    ProxyCommand none"] * 2,
    )
    assert "evil" not in resolved(config, "evil")["identityfile"]
    assert resolved(config, "evil")["hostname"] == "evil"


def test_lines_of_others_in_the_file_do_no_harm(call: Call, store: Store, config: Path) -> None:
    call("create", "one")
    call("ssh-config", "--install")
    file = store.root / "ssh_config"
    file.write_text(file.read_text() + '# machine "\\q"\nHost x\n# machine "gone"\nHost gone\n')
    call("restart", "one")
    assert [line for line in entries(store).splitlines() if line.startswith("Host")] == ["Host one"]


def test_many_processes_write_one_file(call: Call, store: Store, config: Path) -> None:
    """Each of them waits for the others' change."""
    call("create", "one", "two", "three")
    call("ssh-config", "--install")
    config.write_bytes(USERS_OWN)
    words = [
        sys.executable,
        "-c",
        "from pathlib import Path; from pymachine.ssh import user_config; "
        "import sys; user_config.add(Path(sys.argv[1]))",
    ]
    processes = [subprocess.Popen([*words, f"/store/{number}"]) for number in range(6)]
    assert [process.wait() for process in processes] == [0] * 6
    lines = config.read_bytes().removesuffix(USERS_OWN).splitlines()
    assert sorted(lines) == [f'Include "/store/{number}"'.encode() for number in range(6)]
