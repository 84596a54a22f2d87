"""The engine's systemd unit: the command line in force, and the one that pymachine writes."""

from __future__ import annotations

import pytest

from pymachine.provision import unit

ADDRESS = "tcp://0.0.0.0:2376"
KEYS = {"labels", "tlsverify", "tlscacert", "tlscert", "tlskey"}
DEBIAN = """\
# /usr/lib/systemd/system/docker.service
[Unit]
Requires=docker.socket

[Service]
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
"""
OVERRIDE = """\

# /etc/systemd/system/docker.service.d/override.conf
[Service]
ExecStart=
ExecStart=/usr/sbin/dockerd \\
    --log-level warn -H fd://
"""
DOCKER_MACHINE = """\

# /etc/systemd/system/docker.service.d/10-machine.conf
[Service]
ExecStart=
ExecStart=/usr/bin/dockerd -H tcp://0.0.0.0:2376 -H unix:///var/run/docker.sock --tlsverify --label provider=generic
Environment=
"""


def adapt(command: str, **changed: object) -> unit.Command:
    given = {"keys": KEYS, "address": ADDRESS, "flags": [], **changed}
    return unit.with_address(command, **given)  # type: ignore[arg-type]


def test_the_last_exec_start_is_in_force() -> None:
    assert unit.exec_start(DEBIAN, without=()).startswith("/usr/sbin/dockerd -H fd:// --containerd")
    assert unit.exec_start(DEBIAN + OVERRIDE, without=()) == "/usr/sbin/dockerd --log-level warn -H fd://"


def test_an_emptied_exec_start_list_is_no_command_line() -> None:
    assert unit.exec_start("# /a/docker.service\nExecStart=/x\n# /a/o.conf\nExecStart=\n", without=()) == ""
    assert unit.exec_start("", without=()) == ""


def test_files_of_pymachine_and_docker_machine_are_ignored() -> None:
    text = DEBIAN + DOCKER_MACHINE
    assert "fd://" in unit.exec_start(text, without={unit.DOCKER_MACHINE})
    assert "fd://" not in unit.exec_start(text, without=())


def test_the_hosts_own_sockets_stay() -> None:
    command = adapt("/usr/sbin/dockerd -H fd:// --containerd=/run/c.sock $DOCKER_OPTS")
    assert command.line == f"/usr/sbin/dockerd -H fd:// --containerd=/run/c.sock $DOCKER_OPTS -H {ADDRESS}"


def test_an_engine_without_listen_flags_keeps_its_default_socket() -> None:
    assert adapt("/usr/bin/dockerd").line == f"/usr/bin/dockerd -H unix:///var/run/docker.sock -H {ADDRESS}"


def test_adding_the_address_twice_adds_it_once() -> None:
    once = adapt("/usr/sbin/dockerd -H fd://").line
    assert adapt(once).line == once


@pytest.mark.parametrize("words", ["--label rack=7", "--label=rack=7", "--label 'rack=7'"])
def test_a_flag_that_daemon_json_also_sets_moves_there(words: str) -> None:
    command = adapt(f"/usr/sbin/dockerd -H fd:// {words}")
    assert command.line == f"/usr/sbin/dockerd -H fd:// -H {ADDRESS}"
    assert command.moved == {"labels": ["rack=7"]}


def test_the_hosts_own_tls_flags_are_replaced() -> None:
    command = adapt("/usr/sbin/dockerd -H tcp://0.0.0.0:2376 --tlsverify --tlscacert /my/ca.pem --tlskey=/my/key.pem")
    assert command.line == f"/usr/sbin/dockerd -H unix:///var/run/docker.sock -H {ADDRESS}"


def test_other_flags_of_the_host_stay() -> None:
    line = "/usr/sbin/dockerd --log-level warn -D --insecure-registry r:5000 -H fd://"
    assert adapt(line).line == f"{line} -H {ADDRESS}"


def test_the_command_line_has_no_address_if_daemon_json_has_one() -> None:
    assert adapt("/usr/sbin/dockerd", address=None).line == "/usr/sbin/dockerd"


def test_flags_without_a_daemon_json_key_stay_on_the_command_line() -> None:
    line = adapt("/usr/sbin/dockerd -H fd://", flags=["--new-thing=50%"]).line
    assert line.endswith(f'-H {ADDRESS} "--new-thing=50%%"')


def test_the_environment_is_quoted() -> None:
    """docker-machine's drop-in file lost all but the first word of a value."""
    text = unit.drop_in("", environment=["HTTP_PROXY=http://u:p@h", "GREETING=hello world", 'ODD="50%\\'])
    assert 'Environment="HTTP_PROXY=http://u:p@h"' in text
    assert 'Environment="GREETING=hello world"' in text
    assert 'Environment="ODD=\\"50%%\\\\"' in text


def test_without_settings_there_is_no_drop_in() -> None:
    assert unit.drop_in("", environment=[]) == ""
