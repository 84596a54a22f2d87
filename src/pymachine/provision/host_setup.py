"""The steps on one host: read its state, install the engine, set it up, upgrade it, and restore the host."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pymachine.driver.contract import Json
from pymachine.provision import facts as facts_parser, merge, plan as planner
from pymachine.provision.distributions import (
    PackageManager,
    Provisioner,
    Service,
    all_provisioners,
    choose,
    state_folders,
)
from pymachine.provision.errors import ProvisionError, StepError
from pymachine.provision.facts import BACKUP_SUFFIX, DAEMON_JSON, ENGINE_FOLDERS, INSTALLED, SSHFS, SWARM, Facts
from pymachine.provision.plan import LIVE_RESTORE, EngineSettings, Plan
from pymachine.provision.remote import BEGIN, Remote, here_document, script
from pymachine.system.progress import Reporter

FACTS_SECONDS = 1000.0  # includes waiting for another pymachine; see `lock` in common.sh
INSTALL_SECONDS = 3600.0
SET_UP_SECONDS = 1200.0
INSTALL_DONE = "install.done"
FOUND = "found"
# The list of packages before sshfs was installed.
SSHFS_BEFORE = f"{SSHFS}.before"
# Packages that the engine runs on, by all distributions' names. Those that are installed are upgraded with it.
RUNTIME = ("containerd", "containerd.io", "runc")


@dataclass(frozen=True)
class InstallScript:
    """A script that installs the engine, instead of the distribution's packages."""

    url: str
    text: str = field(repr=False)
    sha256: str


class HostSetup:
    """A host that is set up as a Docker host."""

    def __init__(self, remote: Remote, *, reporter: Reporter) -> None:
        self._remote = remote
        self._reporter = reporter
        self._provisioners = all_provisioners()

    def read_facts(self) -> tuple[Facts, Provisioner]:
        """Read the host's state, changing nothing. Raises `UnknownSystemError`, `SudoError`, `ProvisionError`."""
        states = state_folders(self._provisioners)
        own = (INSTALL_DONE, FOUND, SSHFS_BEFORE)
        present = [SWARM, *ENGINE_FOLDERS, *(f"{folder}/{name}" for folder in states for name in own)]
        text = script(
            "facts",
            parts=("facts",),
            variables={
                "STATES": " ".join(states),
                "WATCHED": " ".join(facts_parser.watched_files(self._provisioners)),
                "SECRET": " ".join(facts_parser.secret_files(self._provisioners)),
                "PRESENT": " ".join(present),
            },
        )
        facts = facts_parser.parse(self._remote.run("Detecting the provisioner", text, timeout=FACTS_SECONDS))
        return facts, choose(facts.os_release, self._provisioners)

    def provision(
        self,
        wanted: EngineSettings,
        *,
        install_script: Callable[[], InstallScript | None] = lambda: None,
        before_changes: Callable[[], object] | None = None,
    ) -> Plan:
        """Install the engine if there is none, and set it up as `wanted`. Correct settings are left alone.

        `before_changes` is called before the first change.
        """
        self._reporter.info("Detecting the provisioner...")
        facts, provisioner = self.read_facts()
        self._reporter.info(f"Provisioning with {provisioner.name}...")
        facts_parser.check_service(facts, provisioner)
        if wanted.host_name:
            name = script(f"name_host {shlex.quote(wanted.host_name)}", parts=("host_name",), variables={})
            self._remote.run("Setting the host name", name, timeout=SET_UP_SECONDS)
        needs_sshfs = wanted.shares and _sshfs_is_missing(facts, provisioner)
        if _engine_is_missing(facts, provisioner):
            manager = _manager(provisioner)
            merge.read(facts.files.get(DAEMON_JSON, ""), path=DAEMON_JSON)
            given = install_script()
            if before_changes:
                before_changes()
            self._install(provisioner, manager, given)
            facts, provisioner = self.read_facts()
        if needs_sshfs:
            if before_changes:
                before_changes()
            self._install_sshfs(provisioner, _manager(provisioner))
        plan = planner.make_plan(facts, wanted, provisioner)
        for note in plan.notes:
            self._reporter.info(note)
        if plan.empty:
            changed = "only SSHFS was installed" if needs_sshfs else "nothing was changed"
            self._reporter.info(f"The host is already set up: {changed}.")
            return plan
        if before_changes:
            before_changes()
        self._set_up(facts, provisioner, plan)
        return plan

    def upgrade(self) -> None:
        """Upgrade the engine's packages to their newest version and restart the engine.

        Packages that pymachine did not install are upgraded too. Raises `ProvisionError` if none is installed, or if
        the engine is part of the system.
        """
        facts, provisioner = self.read_facts()
        if provisioner.manager is None:
            raise ProvisionError(
                f"the engine is a part of {provisioner.name}", hint="Upgrade the host's system instead."
            )
        manager = provisioner.manager
        facts_parser.check_service(facts, provisioner)
        pattern = " ".join(f"-e {shlex.quote(name)}" for name in (*provisioner.package_names, *RUNTIME))
        none = f"echo 'No package of an engine is installed: {' '.join(provisioner.package_names)}'; exit 1"
        commands = (
            f"names=$({{ {manager.installed}; }} | sed 's/:.*//' | grep -F -x {pattern} | sort -u | tr '\\n' ' ')\n"
            f'if [ -z "$names" ]; then {none}; fi\n{manager.upgrade} $names'
        )
        self._reporter.info("Upgrading docker...")
        job = _package_job(manager, commands)
        text = script(
            f"lock\nfollow {shlex.quote(job)}", parts=("service", "install"), variables=_variables(provisioner)
        )
        with self._reporter.task("Packages:") as task:
            self._remote.run("Upgrading Docker", text, timeout=INSTALL_SECONDS, line=_report_changed_lines(task.note))
        self._reporter.info("Restarting docker...")
        text = script("lock\nservice restart", parts=("service",), variables=_variables(provisioner))
        self._remote.run("Restarting Docker", text, timeout=SET_UP_SECONDS)

    def restore(self) -> bool:
        """Restore the host's former state. Return False if pymachine changed nothing on it.

        An engine that pymachine installed is removed with its images, containers and volumes.
        """
        facts, provisioner = self.read_facts()
        state = planner.state(facts, provisioner)
        installed = f"{provisioner.state}/{INSTALLED}" in facts.files
        if not state and not installed and f"{provisioner.state}/{FOUND}" not in facts.present:
            return False
        body = ["lock"]
        if f"{provisioner.state}/{SSHFS_BEFORE}" in facts.present:
            manager = _manager(provisioner)
            names = f"{provisioner.sshfs} {provisioner.inotify}"
            body.append(f"remove_packages {shlex.join([SSHFS, manager.installed, manager.remove, names])}")
        if installed:
            manager = _manager(provisioner)
            body += ["stop_engine", *(f"put_back {path}" for path in state.get("managed") or {})]
            names = " ".join(provisioner.package_names)
            body += [f"remove_packages {shlex.join(['packages', manager.installed, manager.remove, names])}"]
            body += [f"remove_leftovers {' '.join(ENGINE_FOLDERS)}", "remove_group"]
        elif state:
            body += _restore_commands(facts, state)
        body += [f"remove_empty {' '.join(ENGINE_FOLDERS)}", f"rm -rf {provisioner.state}"]
        if provisioner.service is Service.SYSTEMD:
            body.append("systemctl daemon-reload")
        text = script("\n".join(body), parts=("service", "restore"), variables=_variables(provisioner))
        self._remote.run("Restoring the host", text, timeout=INSTALL_SECONDS)
        return True

    def _install(self, provisioner: Provisioner, manager: PackageManager, install_script: InstallScript | None) -> None:
        self._reporter.info("Installing Docker...")
        state = provisioner.state
        if install_script:
            self._reporter.info(f"The engine is installed by {install_script.url}, SHA-256 {install_script.sha256}.")
            save_script = f"cat > {state}/install-script {here_document(install_script.text)}"
            commands = f"sh {state}/install-script"
        else:
            save_script = ":"
            commands = _install_commands(provisioner, manager)
        job = _install_job(manager, commands, after=f"{state}/packages.after") + f"\n: > {state}/{INSTALL_DONE}"
        body = [
            "lock",
            _record_found_command(),
            f"note packages.before {shlex.quote(manager.installed)}",
            save_script,
            f"echo {shlex.quote(manager.name)} > {state}/{INSTALLED}",
            f"rm -f {state}/{INSTALL_DONE}",
            f"follow {shlex.quote(job)}",
            "at_boot yes",
        ]
        self._run_package_job(
            "Installing Docker",
            body,
            provisioner,
            hint="Fix the problem on the host and run `pymachine provision`, or install the engine with a script "
            "(create --engine-install-url URL).",
        )

    def _install_sshfs(self, provisioner: Provisioner, manager: PackageManager) -> None:
        self._reporter.info("Installing SSHFS for the shared folders...")
        state = provisioner.state
        commands = _choose_optional(manager, [provisioner.inotify])
        commands = f"names='{provisioner.sshfs}'\n{commands}\n{manager.install} $names"
        job = _install_job(manager, commands, after=f"{state}/{SSHFS}.after")
        body = [
            "lock",
            _record_found_command(),
            f"note {SSHFS_BEFORE} {shlex.quote(manager.installed)}",
            f"follow {shlex.quote(job)}",
        ]
        hint = "Fix the problem on the host, or install sshfs there by hand, and run `pymachine provision`."
        self._run_package_job("Installing SSHFS", body, provisioner, hint=hint)

    def _run_package_job(self, step: str, body: list[str], provisioner: Provisioner, *, hint: str) -> None:
        """Run a script that runs the package manager, and show its output. `hint` is for a failure of it."""
        text = script("\n".join(body), parts=("service", "install"), variables=_variables(provisioner))
        with self._reporter.task("Packages:") as task:
            try:
                show = _report_changed_lines(task.note)
                self._remote.run(step, text, timeout=INSTALL_SECONDS, line=show)
            except StepError as error:
                error.hint = error.hint or hint
                raise

    def _set_up(self, facts: Facts, provisioner: Provisioner, plan: Plan) -> None:
        if any(file.path.endswith(".pem") for file in plan.write):
            self._reporter.info("Copying certs to the remote machine...")
        self._reporter.info("Setting Docker configuration on the remote daemon...")
        body = ["lock", _record_found_command(), "trap clean EXIT"]
        if plan.action == "restart":
            # While this file exists, a later run knows that the engine has not read the new files yet.
            body.append(': > "$STATE/pending"')
        body += [f"stage {file.path} {file.mode:o} {here_document(file.content)}" for file in plan.write]
        body += [f"withdraw {path}" for path in plan.remove]
        body += [f"keep {path}" for path in plan.keep]
        body += ["back_up", "commit_state"]
        if plan.interim:
            body.append(f"keep_containers {DAEMON_JSON} {here_document(plan.interim)}")
        body.append("commit")
        if any(file.path == DAEMON_JSON for file in plan.write):
            body.append(f"validate {DAEMON_JSON}")
        if plan.action:
            body.append(f"activate {plan.action}")
        if not facts.enabled:
            body.append("at_boot yes")
        variables = _variables(provisioner) | {"WAS_ACTIVE": "yes" if facts.active else "no"}
        text = script("\n".join(body), parts=("service", "apply"), variables=variables)
        self._remote.run("Setting Docker configuration", text, timeout=SET_UP_SECONDS)


def _engine_is_missing(facts: Facts, provisioner: Provisioner) -> bool:
    """Whether the host has no engine, or only a stopped one whose installation by pymachine was interrupted."""
    begun = f"{provisioner.state}/{INSTALLED}" in facts.files
    is_interrupted = begun and f"{provisioner.state}/{INSTALL_DONE}" not in facts.present
    return (is_interrupted and not facts.active) or not (facts.dockerd or facts.unit.strip())


def _sshfs_is_missing(facts: Facts, provisioner: Provisioner) -> bool:
    """Return whether sshfs has to be installed. Raises `ProvisionError` if the host cannot have it."""
    brief, hint = "folders cannot be shared with this host", "Share none: --no-share"
    if not facts.fuse:
        raise ProvisionError(
            f"{brief}: its kernel has no FUSE", hint=f"Install the kernel's module fuse there.\n{hint}"
        )
    if not facts.sshfs and provisioner.manager is None:
        raise ProvisionError(f"{brief}: {provisioner.name} has no sshfs, and no packages", hint=hint)
    return not facts.sshfs


def _manager(provisioner: Provisioner) -> PackageManager:
    if provisioner.manager is None:
        raise ProvisionError(
            f"{provisioner.name} normally includes an engine, but this host has none",
            hint="Use a variant of the system that includes one.",
        )
    return provisioner.manager


def _variables(provisioner: Provisioner) -> dict[str, str]:
    return {"STATE": provisioner.state, "SERVICE": provisioner.service.value}


def _record_found_command() -> str:
    listing = f'for each in {" ".join(ENGINE_FOLDERS)}; do if [ -e "$each" ]; then echo "$each"; fi; done; '
    listing += "grep -o '^docker:' /etc/group || true"
    return f"note found {shlex.quote(listing)}"


def _install_commands(provisioner: Provisioner, manager: PackageManager) -> str:
    """Return shell code that installs the first available set of packages, and the optional packages."""
    choices = []
    for names in provisioner.packages:
        tests = " && ".join(f"{_can_install(manager, name)}" for name in names)
        choices.append(f"if {tests}; then names='{' '.join(names)}'; el")
    wanted = ", or ".join(" ".join(names) for names in provisioner.packages)
    choice = "".join(choices) + f"se echo 'None of the configured repositories has {wanted}'; exit 1; fi"
    optional = _choose_optional(manager, provisioner.optional_packages)
    return "\n".join([choice, *([optional] if optional else []), f"{manager.install} $names"])


def _choose_optional(manager: PackageManager, names: Sequence[str]) -> str:
    """Return shell code that adds those packages to the variable ``names`` that can be installed."""
    return "\n".join(f'if {_can_install(manager, name)}; then names="$names {name}"; fi' for name in names)


def _can_install(manager: PackageManager, name: str) -> str:
    return f"{{ {manager.available.replace('{}', name)}; }} > /dev/null 2>&1"


def _install_job(manager: PackageManager, commands: str, *, after: str) -> str:
    """Return the shell code that installs packages by `commands`, in a session of its own on the host.

    It lists the installed packages in the file `after` itself, since the connection may have ended by then.
    """
    return f"{_package_job(manager, commands)}\n{{ {manager.installed}; }} | sort > {after}"


def _package_job(manager: PackageManager, commands: str) -> str:
    """Return shell code that repairs the package manager, refreshes its lists if possible, and runs `commands`."""
    return f"""set -e
umask 022
export DEBIAN_FRONTEND=noninteractive
{manager.repair}
{{ {manager.refresh}; }} || echo 'The package lists cannot be refreshed; using the existing ones'
{commands}"""


def _restore_commands(facts: Facts, state: dict[str, Json]) -> list[str]:
    """Return shell code that restores the files of an engine that existed before, and makes the engine read them."""
    applied = merge.Applied.from_json(state.get("applied"))
    managed = state.get("managed") or {}
    lines = [f"put_back {path}" for path in managed if path != DAEMON_JSON]
    rest = merge.strip(merge.read(facts.files.get(DAEMON_JSON, ""), path=DAEMON_JSON), applied)
    if DAEMON_JSON in managed:
        original = facts.files.get(DAEMON_JSON + BACKUP_SUFFIX)
        if merge.same(rest, merge.read(original or "", path=DAEMON_JSON + BACKUP_SUFFIX)):
            daemon = [f"put_back {DAEMON_JSON}"]
        else:
            # The file was changed since then: remove only pymachine's settings.
            daemon = [f"cat > {DAEMON_JSON} {here_document(merge.write(rest))}", f"rm -f {DAEMON_JSON}{BACKUP_SUFFIX}"]
    else:
        daemon = []
    if not state.get("active"):
        lines += [*daemon, "service stop"]
    elif LIVE_RESTORE in applied.added and facts.containers:
        live = merge.write({**rest, LIVE_RESTORE: True})
        lines += [
            f'cat > "$STATE/live.json" {here_document(live)}',
            f'put "$STATE/live.json" {DAEMON_JSON}',
            "service restart",
        ]
        lines += [f"live_restore off {DAEMON_JSON}", *daemon]
    else:
        lines += [*daemon, "service restart"]
    return lines if state.get("enabled", True) else [*lines, "at_boot no"]


def _report_changed_lines(note: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that passes a line on to `note` if it differs from the previous one."""
    last = ""

    def line(text: str) -> None:
        nonlocal last
        if text not in {last, BEGIN, ""}:
            last = text
            note(text)

    return line
