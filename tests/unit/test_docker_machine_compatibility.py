"""docker-machine's contract, row by row: called by that name, on a store as docker-machine leaves one.

Each row is a command line with what comes of it; the sections are those of the reference of docker-machine 0.16.2 that
the project was built after. A text is compared to the letter, a pattern has to fit the whole.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pymachine.cli import main as main_module
from pymachine.driver.contract import Endpoint
from pymachine.store.record import Machine
from pymachine.store.store import Store
from support import fake_engine

Text = str | re.Pattern[str] | None
NAME = "docker-machine"


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


HELP = pattern(rf"Usage: {NAME} .*")
NOT_THERE = (
    f'Docker machine "x" does not exist. Use "{NAME} ls" to list machines. Use "{NAME} create" to add a new one.\n'
)
# docker-machine's own: scripts compare the number, and put it into URLs.
VERSION = f"{NAME} version 0.16.2, build bd45ab13\n"
NO_DEFAULT = pattern(r'Error: No machine name\(s\) specified and no "default" machine exists\nHint: .*')
INCORRECT = pattern(r"Incorrect Usage\.\n\nUsage: .*")


@dataclass(frozen=True)
class Row:
    """One line of the contract. `{port}` and `{store}` are filled in."""

    what: str
    words: str
    code: int = 0
    out: Text = None
    err: Text = ""
    env: dict[str, str] = field(default_factory=dict)
    stdin: str = ""


PARSER = [
    Row("-x and --x are the same for long names", "ls -quiet", out="alien\ndead\nfar\nintro\nlast\nmaster\noff\n"),
    Row("and for short ones", "ls --q", out="alien\ndead\nfar\nintro\nlast\nmaster\noff\n"),
    Row("--n v", "inspect --format {{.Name}} intro", out="intro\n"),
    Row("--n=v", "inspect --format={{.Name}} intro", out="intro\n"),
    Row("a boolean with a value", "ls -q=true --filter name=intro", out="intro\n"),
    Row("a boolean that is false", "ls --q=false --filter name=^intro$ -f {{.Name}}", out="broken\nintro\n"),
    Row("no bundling", "rm -fy intro", 1, INCORRECT, "flag provided but not defined: -fy\n"),
    Row("flags after positionals", "inspect intro -f {{.DriverName}}", out="none\n"),
    Row("-- ends flags", "status -- -f", 1, "", pattern(r'Docker machine "-f" does not exist\..*')),
    Row("slices repeat", "ls -q --filter name=intro --filter name=off", out="intro\noff\n"),
    Row(
        "slices in variables split on commas",
        "create -d none --url tcp://h:1 new",
        0,
        None,
        "",
        {"ENGINE_REGISTRY_MIRROR": "http://a,http://b"},
    ),
    Row(
        "a bad boolean variable is silently false",
        "url intro",
        0,
        "tcp://127.0.0.1:{port}\n",
        "",
        {"MACHINE_NATIVE_SSH": "perhaps"},
    ),
    Row("an unknown flag", "ls --bogus", 1, INCORRECT, "flag provided but not defined: -bogus\n"),
    Row("a bad value", "ls -t x", 1, INCORRECT, 'invalid value "x" for flag -t: parse error\n'),
    Row("an unknown command", "bogus", 1, "", f"{NAME}: 'bogus' is not a {NAME} command. See '{NAME} --help'.\n"),
    Row(
        "help for an unknown command",
        "help bogus",
        1,
        "",
        f"{NAME}: 'bogus' is not a {NAME} command. See '{NAME} --help'.\n",
    ),
    Row("no arguments: the help", "", 0, HELP),
    Row("help", "help", 0, HELP),
    Row("help of a command", "help start", 0, pattern(rf"Usage: {NAME} start .*")),
    Row("-h of a command", "stop -h", 0, pattern(rf"Usage: {NAME} stop .*")),
    Row("a missing name means default", "status", 1, "", NO_DEFAULT),
    *(
        Row(f"an unknown machine: {words}", f"{words} x", 1, "", pattern(rf".*{re.escape(NOT_THERE)}"))
        for words in (
            "config",
            "env",
            "inspect",
            "ip",
            "kill",
            "provision",
            "restart",
            "ssh",
            "start",
            "status",
            "stop",
            "upgrade",
            "url",
            "version",
        )
    ),
    Row("a load failure aborts before acting", "kill intro x", 1, "", NOT_THERE),
    Row(
        "errors of several are joined with newlines",
        "kill intro dead",
        1,
        None,
        "hosts without a driver cannot be killed\nhosts without a driver cannot be killed\n",
    ),
]

GLOBALS = [
    Row("h is help", "h", 0, HELP),
    Row("h of a command", "h ls", 0, HELP),
    Row("--debug anywhere", "url intro -debug", 0, "tcp://127.0.0.1:{port}\n", pattern(r".*debug mode.*")),
    Row(
        "MACHINE_DEBUG that is no boolean",
        "ls",
        1,
        "",
        'Error parsing boolean value from MACHINE_DEBUG: strconv.ParseBool: parsing "x": invalid syntax\n',
        {"MACHINE_DEBUG": "x"},
    ),
    Row("--storage-path wins over its variable", "--storage-path {store}/none ls -q", 0, ""),
    Row("-s", "-s {store}/none ls -q", 0, ""),
    Row(
        "tokens that do nothing are taken",
        "--bugsnag-api-token=no-report --github-api-token x url intro",
        0,
        "tcp://127.0.0.1:{port}\n",
    ),
    Row("--native-ssh", "--native-ssh url intro", 0, "tcp://127.0.0.1:{port}\n"),
    Row(
        "--tls-* name other certificates",
        "--tls-ca-cert {store}/ca --tls-ca-key {store}/k url intro",
        0,
        "tcp://127.0.0.1:{port}\n",
    ),
    Row("-v", "-v", 0, VERSION),
    Row("--version", "--version", 0, VERSION),
]

READING = [
    Row("active: no host", "active", 1, "", pattern(r"No active host found\n.*")),
    Row("active", "active", 0, "intro\n", "", {"DOCKER_HOST": "tcp://127.0.0.1:{port}"}),
    Row("active takes no arguments", "active x", 1, "", "Error: Too many arguments given\n"),
    Row(
        "config",
        "config intro",
        0,
        '--tlsverify\n--tlscacert="{store}/machines/intro/ca.pem"\n--tlscert="{store}/machines/intro/cert.pem"\n'
        '--tlskey="{store}/machines/intro/key.pem"\n-H=tcp://127.0.0.1:{port}\n',
    ),
    Row("config: errors", "config dead", 1, "", pattern(r"Error running connection boilerplate: .*")),
    Row("config --swarm of a master", "config --swarm master", 0, pattern(r".*-H=tcp://127\.0\.0\.1:{port}\n")),
    Row(
        "config --swarm of another",
        "config --swarm intro",
        1,
        "",
        pattern(
            r'Error running connection boilerplate: "intro" is not a swarm master\. The --swarm flag is intended for use with '
            r"swarm masters\n.*"
        ),
    ),
    Row(
        "inspect: a template", "inspect intro -f {{.HostOptions.AuthOptions.StorePath}}", 0, "{store}/machines/intro\n"
    ),
    Row("inspect: functions", "inspect intro -f {{json|.Driver.MachineName}}", 1, "", pattern(r"template.*")),
    Row("inspect: json", "inspect intro -f {{.Driver.MachineName|json}}", 0, '"intro"\n'),
    Row(
        "inspect: prettyjson",
        "inspect intro -f {{prettyjson(.HostOptions.EngineOptions.Labels)}}",
        0,
        '[\n    "a=b"\n]\n',
    ),
    Row("inspect: range", "inspect intro -f {{range(.HostOptions.EngineOptions.Labels)}}<{{.}}>{{end}}", 0, "<a=b>\n"),
    Row("inspect: a missing key", "inspect intro -f {{.Nope}}", 0, "<no value>\n"),
    Row(
        "inspect: a bad template",
        "inspect intro -f {{",
        1,
        "",
        "template parsing error: template: :1: unclosed action\n",
    ),
    Row("inspect: two machines", "inspect a b", 1, HELP, "Error: Expected one machine name as an argument\n"),
    Row("ip of several", "ip intro dead", 0, "127.0.0.1\n127.0.0.1\n"),
    Row("ip of a host that is off", "ip far", 0, "127.0.0.1\n"),
    Row("url of a host that is off", "url far", 1, "", pattern(r"Host is not running\n.*")),
    Row("ip of a stopped one", "ip off", 1, "", pattern(r"Error getting IP address: Host is not running\n.*")),
    Row("status", "status intro", 0, "Running\n"),
    Row("status of a stopped one", "status off", 0, "Stopped\n"),
    Row("url", "url intro", 0, "tcp://127.0.0.1:{port}\n"),
    Row("url of a stopped one", "url off", 1, "", pattern(r"Host is not running\n.*")),
    Row("version of the client", "version", 0, VERSION),
    Row("version of an engine", "version intro", 0, f"{fake_engine.VERSION}\n"),
    Row("version: no answer", "version dead", 1, "", pattern(r"Unable to query docker version: .*")),
    Row(
        "a machine of a driver that is not here is shown as what it is",
        "inspect alien -f {{.DriverName}}",
        0,
        "vmwarefusion\n",
    ),
    Row(
        "and cannot be managed",
        "status alien",
        1,
        "",
        pattern(
            r'error getting state for host alien: Driver "vmwarefusion" not found\. Do you have the plugin binary '
            r"accessible in your PATH\?\n.*"
        ),
    ),
]

ACTING = [
    Row("start of one that runs", "start intro", 1, 'Starting "intro"...\n', 'Machine "intro" is already running.\n'),
    Row(
        "start of a host that is off", "start far", 1, 'Starting "far"...\n', "generic driver does not support start\n"
    ),
    Row(
        "upgrade of a host that is off starts it, if that can be",
        "upgrade far",
        1,
        'Starting machine so machine can be upgraded...\nStarting "far"...\n',
        "generic driver does not support start\n",
    ),
    Row(
        "restart of one that is off starts it",
        "restart far",
        1,
        'Restarting "far"...\nStarting "far"...\n',
        "generic driver does not support start\n",
    ),
    Row(
        "start of one whose driver is not here",
        "start alien",
        1,
        'Starting "alien"...\n',
        pattern('Driver "vmwarefusion" not found.*'),
    ),
    Row(
        "scp says whose machine is not there",
        "scp x:/a .",
        1,
        "",
        f"Error loading host: Error loading host: {NOT_THERE}",
    ),
    Row("stop of one that is stopped", "stop off", 1, 'Stopping "off"...\n', 'Machine "off" is already stopped.\n'),
    Row("kill of one that is stopped", "kill off", 1, 'Killing "off"...\n', 'Machine "off" is already stopped.\n'),
    Row(
        "stop without a driver", "stop intro", 1, 'Stopping "intro"...\n', "hosts without a driver cannot be stopped\n"
    ),
    Row("kill without a driver", "kill intro", 1, 'Killing "intro"...\n', "hosts without a driver cannot be killed\n"),
    Row(
        "restart without a driver",
        "restart intro",
        1,
        'Restarting "intro"...\n',
        "hosts without a driver cannot be restarted\n",
    ),
    Row(
        "regenerate-certs asks; no is no",
        "regenerate-certs intro",
        0,
        "Regenerate TLS machine certs?  Warning: this is irreversible. (y/n): ",
        "",
        {},
        "n\n",
    ),
    Row(
        "regenerate-certs: the end of the input is an error",
        "regenerate-certs intro",
        1,
        "Regenerate TLS machine certs?  Warning: this is irreversible. (y/n): ",
        pattern(r"EOF\n.*"),
    ),
    Row("regenerate-certs", "regenerate-certs -f off", 0, pattern(r"Regenerating TLS certificates\n.*")),
    Row(
        "regenerate-certs --client-certs",
        "regenerate-certs --force --client-certs off",
        0,
        pattern(
            r"Regenerating TLS certificates\nRegenerating local certificates\nCreating CA: .*ca\.pem\n"
            r"Creating client certificate: .*cert\.pem\n"
        ),
    ),
    Row("provision of one without a driver", "provision intro", 1, "", "none driver does not support provision\n"),
    Row("rm without a name", "rm", 1, HELP, "Error: Expected to get one or more machine names as arguments\n"),
    Row(
        "rm asks",
        "rm intro dead",
        0,
        "About to remove intro, dead\nWARNING: This action will delete both local reference and remote instance.\n"
        "Are you sure? (y/n): ",
        "",
        {},
        "n\n",
    ),
    Row("rm: the end of the input is a no", "rm intro", 0, pattern(r".*Are you sure\? \(y/n\): \n")),
    Row(
        "rm -y",
        "rm -y dead",
        0,
        "About to remove dead\nWARNING: This action will delete both local reference and remote instance.\n"
        "Successfully removed dead\n",
    ),
    Row("rm of what is not there", "rm -y x", 1, None, f'Error removing host "x": {NOT_THERE}'),
    Row(
        "rm -f: errors are printed, and the exit code is 0",
        "rm -f x",
        0,
        None,
        f'Error removing host "x": {NOT_THERE}Can\'t remove "x"\n',
    ),
    Row(
        "ssh to a stopped one",
        "ssh off",
        1,
        "",
        pattern(r'Error: Cannot run SSH command: Host "off" is not running\n.*'),
    ),
    Row("scp with one argument", "scp a", 1, HELP, "Improper number of arguments\n"),
    Row("mount without arguments", "mount", 1, HELP, "Improper number of arguments\n"),
    Row(
        "mount without sshfs",
        "mount intro:/x",
        1,
        "",
        "You must have a copy of the sshfs binary locally to use the mount feature\n",
        {"PATH": "/nowhere"},
    ),
    Row(
        "unmount without fusermount",
        "mount -u intro:/x",
        1,
        "",
        "You must have a copy of the fusermount binary locally to use the unmount option\n",
        {"PATH": "/nowhere"},
    ),
    Row(
        "scp without scp",
        "scp localhost:a b",
        1,
        "",
        "You must have a copy of the scp binary locally to use the scp feature\n",
        {"PATH": "/nowhere"},
    ),
    Row(
        "scp -d without rsync",
        "scp -d localhost:a b",
        1,
        "",
        "You must have a copy of the rsync binary locally to use the --delta option\n",
        {"PATH": "/nowhere"},
    ),
]

CREATE = [
    Row(
        "several names",
        "create -d none --url tcp://h:1 a b c",
        1,
        "",
        "Invalid command line. Found extra arguments [b c]\n",
    ),
    Row("a swarm's discovery without a swarm", "create -d none --url tcp://h:1 --swarm-discovery token://1 n", 0, None),
    Row("no name", "create", 1, HELP, "Error: No machine name specified\n"),
    Row(
        "a name that is none",
        "create -d none --url tcp://h:1 a_b",
        1,
        None,
        pattern(r"Error creating machine: Invalid hostname specified\. Allowed hostname chars are: 0-9a-zA-Z \. -\n.*"),
    ),
    Row(
        "a name that is taken",
        "create -d none --url tcp://h:1 intro",
        1,
        None,
        pattern(r'Docker machine "intro" already exists\n.*'),
    ),
    Row(
        "an unknown driver",
        "create -d bogus n",
        1,
        "",
        pattern(
            r'Driver "bogus" not found\. Do you have the plugin binary "docker-machine-driver-bogus" accessible in your '
            r"PATH\?\n.*"
        ),
    ),
    Row(
        "the driver by its variable",
        "create n",
        1,
        None,
        pattern(
            r"Error setting machine configuration from flags provided: --url option is required when no driver is selected\n"
        ),
        {"MACHINE_DRIVER": "none"},
    ),
    Row(
        "a bad discovery URL",
        "create -d none --url tcp://h:1 --swarm --swarm-discovery foo n",
        1,
        "",
        "Error parsing swarm discovery: Swarm Discovery URL was in the wrong format: foo\n",
    ),
    Row(
        "Swarm standalone", "create -d none --url tcp://h:1 --swarm n", 1, "", pattern(r"--swarm is not supported: .*")
    ),
    Row(
        "flags of Swarm standalone that do nothing",
        "create -d none --url tcp://127.0.0.1:{port} --swarm-image a "
        "--swarm-strategy b --swarm-opt c --swarm-join-opt d --swarm-host tcp://0.0.0.0:1 --swarm-addr e "
        "--swarm-experimental n",
        0,
        pattern(r".*"),
    ),
    Row(
        "every flag of the engine",
        "create -d none --url tcp://127.0.0.1:{port} --engine-opt a=b "
        "--engine-insecure-registry r --engine-registry-mirror http://m --engine-label l=m --engine-env E=F "
        "--engine-storage-driver overlay2 --engine-install-url http://i --tls-san s n",
        0,
        pattern(
            r"Running pre-create checks\.\.\.\nCreating machine\.\.\.\nTo see how to connect your Docker Client to the Docker "
            r"Engine running on this virtual machine, run: docker-machine env n\n"
        ),
    ),
    Row(
        "a pre-create check that fails has exit code 3",
        "create -d qemu --qemu-binary /nowhere/qemu n",
        3,
        pattern(r"Running pre-create checks\.\.\.\n"),
        pattern(r'Error with pre-create check: ".*"\n.*'),
    ),
    Row(
        "a driver's bad value",
        "create -d qemu --qemu-memory 1 n",
        1,
        None,
        pattern(r"Error setting machine configuration from flags provided: --qemu-memory is 1, .*"),
    ),
]

TABLE = (
    "NAME     ACTIVE   DRIVER         STATE     URL                     SWARM             DOCKER    ERRORS\n"
    "alien    -        vmwarefusion   Error                                               Unknown   Driver "
)
LS = [
    Row(
        "the table",
        "ls",
        0,
        pattern(
            re.escape(TABLE) + r".*\nbroken            not found      Error {57}Error getting .*\n"
            r"intro    -        none           Running   tcp://127\.0\.0\.1:\d+.* v28\.5\.2 +\n"
            r"last     -        none           Running   tcp://127\.0\.0\.1:\d+ +master .*"
            r"master   -        none           Running   tcp://127\.0\.0\.1:\d+ +master \(master\) .*"
            r"off      -        qemu           Stopped                           .*Unknown   \n"
        ),
    ),
    Row(
        "active",
        "ls -f {{.Name}}{{.Active}}{{.ActiveHost}} --filter name=intro",
        0,
        pattern(r"broken.*\nintro\*true\n"),
        "",
        {"DOCKER_HOST": "tcp://127.0.0.1:{port}"},
    ),
    Row("ignores arguments", "ls x -q", out="alien\ndead\nfar\nintro\nlast\nmaster\noff\n"),
    Row("-q has neither headers nor what is broken", "ls -q", 0, "alien\ndead\nfar\nintro\nlast\nmaster\noff\n"),
    Row("-q with a state", "ls -q --filter state=Stopped", 0, "far\noff\n"),
    Row("states are the same in any case", "ls -q --filter state=stopped", 0, "far\noff\n"),
    Row("filter by driver", "ls -q --filter driver=QEMU", 0, "off\n"),
    Row("filter by name, a pattern", "ls -q --filter name=^[io]", 0, "intro\noff\n"),
    Row("filter by label", "ls -q --filter label=a=B", 0, "intro\n"),
    Row("filter by swarm", "ls -q --filter swarm=master", 0, "last\nmaster\n"),
    Row("same keys are alternatives", "ls -q --filter driver=qemu --filter driver=vmwarefusion", 0, "alien\noff\n"),
    Row(
        "filter by name, in Go's syntax",
        r"ls -q --filter name=^[[:alpha:]]{3}\z --filter name=^\pL+tro",
        0,
        "far\nintro\noff\n",
    ),
    Row(
        "filter by name, no syntax of Go's",
        "ls -q --filter name=(?=i)",
        1,
        err="the filter name=(?=i) is not a regular expression: invalid or unsupported Perl syntax\n",
    ),
    Row("different keys add up", "ls -q --filter driver=none --filter name=intro", 0, "intro\n"),
    Row("keys are the same in any case", "ls -q --filter NAME=intro", 0, "intro\n"),
    Row("what is broken is never filtered out", "ls -f {{.Name}} --filter name=intro", 0, "broken\nintro\n"),
    Row("a filter that is none", "ls --filter x", 1, "", "Unsupported filter syntax\n"),
    Row("a filter that is not known", "ls --filter x=y", 1, "", pattern(r"Unsupported filter key 'x'\n.*")),
    Row(
        "format: every field",
        "ls --filter name=intro -f {{.Name}},{{.Active}},{{.ActiveHost}},{{.ActiveSwarm}},"
        "{{.DriverName}},{{.State}},{{.URL}},{{.Swarm}},{{.Error}},{{.DockerVersion}},{{.ResponseTime}}",
        0,
        pattern(
            r"broken,,false,false,not found,Error,,,.*\n"
            r"intro,-,false,false,none,Running,tcp://127\.0\.0\.1:\d+,,,v28\.5\.2,[0-9.]+m?s\n"
        ),
    ),
    Row(
        "format: options",
        "ls --filter name=intro -f {{.EngineOptions.Labels}}{{.SwarmOptions.Strategy}}",
        0,
        pattern(r".*\[a=b\]spread\n"),
    ),
    Row(
        "format: \\t and \\n",
        r"ls --filter name=intro -f {{.Name}}\t{{.State}}\n-",
        0,
        "broken\tError\n-\nintro\tRunning\n-\n",
    ),
    Row(
        "format: table",
        r"ls --filter name=intro -f table_{{.Name}}\t{{.DriverName}}\t{{.DockerVersion}}",
        0,
        "NAME     DRIVER      DOCKER\nbroken   not found   \nintro    none        v28.5.2\n",
    ),
    Row(
        "format: headers that differ",
        "ls --filter name=none -f table_{{.Error}},{{.ResponseTime}},{{.ActiveSwarm}}",
        0,
        pattern(r"ERRORS,RESPONSE,ACTIVE_SWARM\n.*"),
    ),
    Row(
        "format: a field that there is not",
        "ls -f {{.Nope}}",
        1,
        "",
        'template: :1:2: executing "" at <.Nope>: can\'t evaluate field Nope in type commands.HostListItem\n',
    ),
    Row(
        "format: what came before an error is printed",
        r"ls --filter name=intro -f table_{{.Name}}\t{{.Nope}}",
        1,
        "NAME   <no value>\nbroken",
        'template: :1:12: executing "" at <.Nope>: can\'t evaluate field Nope in type commands.HostListItem\n',
    ),
    Row("format: the state is a number", "ls --filter name=intro -f {{printf_`%d`_.State}}", 0, "7\n1\n"),
    Row(
        "format: the state is a word",
        "ls --filter name=intro -f {{.State.String|printf(`%q`)}}",
        0,
        '"Error"\n"Running"\n',
    ),
    Row("format: the state is compared", "ls --filter name=intro -f {{if(eq_.State_1)}}up{{end}}", 0, "\nup\n"),
    Row("format: seconds", "ls --filter name=broken -f {{.ResponseTime.Seconds}}|{{.ResponseTime}}", 0, "0|0s\n"),
    Row(
        "format: Go's names",
        "ls --filter name=intro -f {{.EngineOptions.TLSVerify}}{{.EngineOptions.DNS}}",
        0,
        "<no value><no value>\ntrue[]\n",
    ),
    Row(
        "format: a struct",
        "ls --filter name=intro -f {{.SwarmOptions}}",
        0,
        "<nil>\n{false   false false tcp://0.0.0.0:3376 swarm:latest spread 0 0 [] [] [] false}\n",
    ),
    Row(
        "format: JSON's names are not Go's",
        "ls --filter name=^intro$ --filter driver=none -f {{with.EngineOptions}}{{.TlsVerify}}{{end}}",
        1,
        "\n",
        'template: :1:24: executing "" at <.TlsVerify>: can\'t evaluate field TlsVerify in type *engine.Options\n',
    ),
    Row(
        "format: of zsh's completion",
        r"ls --filter name=intro -f {{.Name}}\:{{.DriverName}}\({{.State}}\)\_{{.URL}}",
        0,
        pattern(r".*intro\\:none\\\(Running\\\)\\ tcp://127\.0\.0\.1:\d+\n"),
    ),
    Row(
        "the machine of a driver that is not here",
        "ls --filter name=alien -f {{.DriverName}},{{.State}},{{.Error}}",
        0,
        pattern(r'vmwarefusion,Error,Driver "vmwarefusion" not found\..*\nnot found,Error,.*\n'),
    ),
]

SET = {
    "bash": 'export DOCKER_TLS_VERIFY="1"\nexport DOCKER_HOST="tcp://127.0.0.1:{port}"\n'
    'export DOCKER_CERT_PATH="{store}/machines/intro"\nexport DOCKER_MACHINE_NAME="intro"\n'
    "# Run this command to configure your shell: \n# eval $(docker-machine env --shell bash intro)\n",
    "fish": 'set -gx DOCKER_TLS_VERIFY "1";\nset -gx DOCKER_HOST "tcp://127.0.0.1:{port}";\n'
    'set -gx DOCKER_CERT_PATH "{store}/machines/intro";\nset -gx DOCKER_MACHINE_NAME "intro";\n'
    "# Run this command to configure your shell: \n# eval (docker-machine env --shell fish intro)\n",
    "powershell": '$Env:DOCKER_TLS_VERIFY = "1"\n$Env:DOCKER_HOST = "tcp://127.0.0.1:{port}"\n'
    '$Env:DOCKER_CERT_PATH = "{store}/machines/intro"\n$Env:DOCKER_MACHINE_NAME = "intro"\n'
    "# Run this command to configure your shell: \n# & docker-machine env --shell powershell intro | Invoke-Expression\n",
    "cmd": "SET DOCKER_TLS_VERIFY=1\nSET DOCKER_HOST=tcp://127.0.0.1:{port}\n"
    "SET DOCKER_CERT_PATH={store}/machines/intro\nSET DOCKER_MACHINE_NAME=intro\n"
    "REM Run this command to configure your shell: \n"
    "REM \t@FOR /f \"tokens=*\" %i IN ('docker-machine env --shell cmd intro') DO @%i\n",
    "tcsh": 'setenv DOCKER_TLS_VERIFY "1";\nsetenv DOCKER_HOST "tcp://127.0.0.1:{port}";\n'
    'setenv DOCKER_CERT_PATH "{store}/machines/intro";\nsetenv DOCKER_MACHINE_NAME "intro";\n'
    ": Run this command to configure your shell: \n: eval `docker-machine env --shell tcsh intro`\n",
    "emacs": '(setenv "DOCKER_TLS_VERIFY" "1")\n(setenv "DOCKER_HOST" "tcp://127.0.0.1:{port}")\n'
    '(setenv "DOCKER_CERT_PATH" "{store}/machines/intro")\n(setenv "DOCKER_MACHINE_NAME" "intro")\n'
    ";; Run this command to configure your shell: \n"
    ';; (with-temp-buffer (shell-command "docker-machine env --shell emacs intro" (current-buffer)) (eval-buffer))\n',
}
UNSET = {
    "bash": "unset {}",
    "fish": "set -e {};",
    "powershell": "Remove-Item Env:\\\\{}",
    "cmd": "SET {}=",
    "tcsh": "unsetenv {};",
    "emacs": '(setenv "{}" nil)',
}
VARIABLES = ("DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME")
ENV = [
    *(Row(f"set: {shell}", f"env --shell {shell} intro", 0, text) for shell, text in SET.items()),
    *(
        Row(
            f"unset: {shell}",
            f"env --shell {shell} -u",
            0,
            pattern(re.escape("".join(form.format(name) + "\n" for name in VARIABLES)) + ".*"),
        )
        for shell, form in UNSET.items()
    ),
    Row("the shell is SHELL's", "env intro", 0, pattern(r"set -gx .*"), "", {"SHELL": "/usr/bin/fish"}),
    Row("-u with a name", "env -u intro", 1, "", "Error: Expected no machine name when the -u flag is present\n"),
    Row(
        "--no-proxy",
        "env --no-proxy --shell sh intro",
        0,
        pattern(r'.*export NO_PROXY="127\.0\.0\.1"\n.*'),
        "",
        {"NO_PROXY": "", "no_proxy": ""},
    ),
    Row(
        "--no-proxy appends",
        "env --no-proxy --shell sh intro",
        0,
        pattern(r'.*export no_proxy="a,127\.0\.0\.1"\nexport NO_PROXY="b,127\.0\.0\.1"\n.*'),
        "",
        {"NO_PROXY": "b", "no_proxy": "a"},
    ),
    Row(
        "--no-proxy leaves what is there",
        "env --no-proxy --shell sh intro",
        0,
        pattern(r'.*export NO_PROXY="127\.0\.0\.1,c"\n.*'),
        "",
        {"NO_PROXY": "127.0.0.1,c", "no_proxy": ""},
    ),
    Row(
        "--swarm of a master",
        "env --swarm --shell sh master",
        0,
        pattern(r'.*export DOCKER_HOST="tcp://127\.0\.0\.1:{port}"\n.*'),
    ),
    Row(
        "--swarm of another",
        "env --swarm --shell sh intro",
        1,
        "",
        pattern(
            r'Error checking TLS connection: "intro" is not a swarm master\. The --swarm flag is intended for use with swarm '
            r"masters\n.*"
        ),
    ),
    Row(
        "no answer",
        "env --shell sh dead",
        1,
        "",
        pattern(
            r"Error checking TLS connection: Error checking and/or regenerating the certs: There was an error validating "
            r'certificates for host "127\.0\.0\.1:1": dial tcp 127\.0\.0\.1:1: connect: connection refused\n'
            r"You can attempt to regenerate them using 'docker-machine regenerate-certs \[name\]'\.\nBe advised that .*"
        ),
    ),
    Row(
        "a stopped machine",
        "env --shell sh off",
        1,
        "",
        pattern(r"Error checking TLS connection: Host is not running\n.*"),
    ),
]

# GitLab Runner's docker+machine executor: each call as it makes it.
RUNNER = "--bugsnag-api-token=no-report "
GITLAB = [
    Row(
        "create",
        RUNNER + "create --driver none --url=tcp://127.0.0.1:{port} runner-ab-tmpl-1699999999-deadbeef",
        0,
        pattern(r".*"),
    ),
    Row("config of one that answers", RUNNER + "config intro", 0, pattern(r"--tlsverify\n.*")),
    Row("config of one that does not", RUNNER + "config dead", 1, "", None),
    Row("url", RUNNER + "url intro", 0, pattern(r"tcp://\S+\n")),
    Row(
        "inspect -f behind the name",
        RUNNER + "inspect intro -f {{.HostOptions.AuthOptions.StorePath}}",
        0,
        "{store}/machines/intro\n",
    ),
    Row("inspect of one that is there", RUNNER + "inspect intro", 0, pattern(r"\{\n    \"ConfigVersion\": 3,.*")),
    Row("inspect of one that is not", RUNNER + "inspect x", 1, "", NOT_THERE),
    Row("ip", RUNNER + "ip intro", 0, "127.0.0.1\n"),
    Row("status", RUNNER + "status intro", 0, "Running\n"),
    Row("rm -y", RUNNER + "rm -y dead", 0),
    Row("rm -f", RUNNER + "rm -f dead", 0),
    Row(
        "update-labels is answered in words that it knows",
        RUNNER + "update-labels --label a=b intro",
        1,
        "",
        "driver does not support labels\n",
    ),
]

SECTIONS = {
    "parser": PARSER,
    "globals": GLOBALS,
    "reading": READING,
    "acting": ACTING,
    "create": CREATE,
    "ls": LS,
    "env": ENV,
    "gitlab-runner": GITLAB,
}
ROWS = [pytest.param(row, id=f"{section}: {row.what}") for section, rows in SECTIONS.items() for row in rows]


@dataclass(frozen=True)
class World:
    root: Path
    port: int
    call: Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A store with machines of every kind, to be copied for each test; the engine of one answers."""
    root = tmp_path_factory.mktemp("template") / "store"
    with fake_engine.machine(root) as port:
        store = Store(root)
        for name, at in (("dead", 1), ("master", port), ("last", port)):
            machine = fake_engine.record(store, name, at)
            machine.swarm.discovery = "" if name == "dead" else "token://1"
            machine.swarm.master = name == "master"
            machine.swarm.host = f"tcp://0.0.0.0:{port}"
            store.save(machine)
            for file in ("ca.pem", "cert.pem", "key.pem"):
                shutil.copy(root / "machines/intro" / file, root / "machines" / name / file)
        intro = store.load("intro")
        intro.engine.labels = ["a=b"]
        store.save(intro)
        far = {"IPAddress": "127.0.0.1", "SSHPort": 1, "MachineName": "far"}
        store.save(Machine(name="far", driver_name="generic", driver=far))
        place = {"IPAddress": "127.70.70.70", "MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10", "MachineName": "off"}
        store.save(Machine(name="off", driver_name="qemu", driver=place, endpoint=Endpoint("127.70.70.70")))
        store.save(Machine(name="alien", driver_name="vmwarefusion", driver={"MachineName": "alien"}))
        (root / "machines/broken").mkdir()
        (root / "machines/broken/config.json").write_text("{")
        yield root, port


@pytest.fixture
def world(
    template: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> World:
    source, port = template
    root = tmp_path / "store"
    shutil.copytree(source, root)
    for name in ("MACHINE_DEBUG", "MACHINE_DRIVER", "DOCKER_HOST", "SHELL", "ENGINE_REGISTRY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(root))
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)
    monkeypatch.setattr("pymachine.cli.shells.caller", lambda: "")

    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return main_module.main([NAME, *words]), *capsys.readouterr()

    return World(root, port, call)


def fits(actual: str, expected: Text, world: World) -> bool:
    if expected is None:
        return True
    filled = expected if isinstance(expected, str) else expected.pattern
    filled = filled.replace("{port}", str(world.port)).replace("{store}", str(world.root))
    return actual == filled if isinstance(expected, str) else re.fullmatch(filled, actual, re.DOTALL) is not None


@pytest.mark.parametrize("row", ROWS)
def test_each_row_behaves_as_docker_machine(row: Row, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(text: str) -> str:
        return text.replace("{port}", str(world.port)).replace("{store}", str(world.root))

    for name, value in row.env.items():
        monkeypatch.setenv(name, fill(value))
    # A blank in a word of the table is written as an underscore.
    words = [fill(word).replace("_", " ") if "{{" in word else fill(word) for word in row.words.split()]
    code, out, err = world.call(*words, stdin=row.stdin)
    assert (code, fits(out, row.out, world), fits(err, row.err, world)) == (row.code, True, True), (
        f"exit code {code}\n--- stdout\n{out}\n--- stderr\n{err}"
    )


def test_no_row_is_repeated() -> None:
    ids = [param.id for param in ROWS]
    assert len(ids) == len(set(ids))


def test_inspect_indents_by_four_spaces(world: World) -> None:
    _, out, _ = world.call("inspect", "intro")
    record = json.loads(out)
    assert out == json.dumps(record, indent=4, ensure_ascii=False) + "\n"
    assert list(record)[:5] == ["ConfigVersion", "Driver", "DriverName", "HostOptions", "Name"]


def test_flags_of_create_are_saved_in_the_record(world: World) -> None:
    words = next(row for row in CREATE if row.what == "every flag of the engine").words
    world.call(*words.replace("{port}", str(world.port)).split())
    options = json.loads((world.root / "machines/n/config.json").read_text())["HostOptions"]
    assert options["EngineOptions"] == {
        "ArbitraryFlags": ["a=b"],
        "Dns": None,
        "GraphDir": "",
        "Env": ["E=F"],
        "Ipv6": False,
        "InsecureRegistry": ["r"],
        "Labels": ["l=m"],
        "LogLevel": "",
        "StorageDriver": "overlay2",
        "SelinuxEnabled": False,
        "TlsVerify": True,
        "RegistryMirror": ["http://m"],
        "InstallURL": "http://i",
    }
    assert options["AuthOptions"]["ServerCertSANs"] == ["s"]
    assert (options["Driver"], options["Memory"], options["Disk"]) == ("", 0, 0)


def test_without_shell_env_names_the_shell_it_prints_for(world: World) -> None:
    code, out, err = world.call("env", "intro")
    assert (code, err.splitlines()[0]) == (1, "Error: Unknown shell")
    assert out == (
        "The default lines below are for a sh/bash shell, you can specify the shell you're using, with the --shell flag.\n\n"
    )


def test_hints_use_the_name_the_program_was_called_by(world: World) -> None:
    _, _, err = world.call("url", "off")
    assert err == "Host is not running\nHint: Start it: docker-machine start off\n"
