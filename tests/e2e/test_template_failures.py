"""Failures of a single machine do not discard its template, and templates survive a copy of the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_clones import (
    BOOTED,
    MADE,
    RESUMED,
    folder_of,
    interrupt,
    read_until,
    ssh,
    template_folders,
    templates,
    with_shared_template,
)

from pymachine.system.progress import Silent
from pymachine.tls import certs
from support.runner import Outcome, Pymachine, private_store


@pytest.fixture(scope="module")
def host() -> Iterator[Pymachine]:
    """A store with its own template, and a machine."""
    with private_store() as program:
        with_shared_template(program)
        program("create", "good")
        yield program


@pytest.fixture
def kept(host: Pymachine) -> Iterator[Pymachine]:
    """Yield `host`; afterwards check that its template still exists, and that nothing else is left.

    That it is used shows in the next `create`: the last is that of `test_the_template_is_still_used`.
    """
    (before,) = templates(host)
    yield host
    assert templates(host) == [before]
    assert host("ls", "-q").stdout == "good\n"
    assert not list((Path(host.env["PYMACHINE_CACHE"]) / "templates").glob(".*.failed"))


def refused(program: Pymachine, *words: str) -> Outcome:
    outcome = program(*words, code=1)
    assert "Traceback" not in outcome.text
    return outcome


# -- engine options ----------------------------------------------------------------------------------------------

UNKNOWN_TO_DOCKERD = (("--engine-opt", "no-such-option=1"), "unknown flag: --no-such-option")
FAILS_AT_START = (("--engine-opt", "storage-driver=zfs"), "zfs")
FAILS_AT_RELOAD = (("--engine-opt", "default-runtime=none-such"), "none-such")
WRONG_MIRROR = (("--engine-registry-mirror", "ftp://mirror"), "ftp")


# The engine of a clone restarts with the options, or reads them again. It refuses an unknown option and a wrong mirror
# in the same ways: see the other tests for these.
@pytest.mark.parametrize(("flags", "message"), [FAILS_AT_START, FAILS_AT_RELOAD])
def test_a_clone_with_options_that_the_engine_refuses_fails(
    kept: Pymachine, flags: tuple[str, ...], message: str
) -> None:
    outcome = refused(kept, "create", *flags, "x")
    assert message in outcome.stderr
    assert (MADE in outcome.stdout, RESUMED in outcome.stdout, BOOTED in outcome.stdout) == (False, True, False)


def test_a_booted_machine_with_options_that_the_engine_refuses_fails(kept: Pymachine) -> None:
    flags, message = UNKNOWN_TO_DOCKERD
    assert message in refused(kept, "create", "--no-template", *flags, "x").stderr


@pytest.mark.parametrize("flags", [("--engine-label", "nolabel"), ("--engine-env", "A-B=1"), ("--tls-san", "ü")])
def test_invalid_options_are_refused_before_the_guest_starts(kept: Pymachine, flags: tuple[str, ...]) -> None:
    outcome = refused(kept, "create", *flags, "x")
    assert flags[1] in outcome.stderr
    assert RESUMED not in outcome.stdout


def engine_settings(host: Pymachine) -> str:
    """Return the settings of the machine ``good``, whose engine must answer and have no containers."""
    return ssh(host, "good", "docker ps -q && cat /etc/docker/daemon.json")


@pytest.fixture(scope="module")
def settings(host: Pymachine) -> str:
    before = engine_settings(host)
    assert before.startswith("{")
    return before


@pytest.mark.parametrize(("flags", "message"), [UNKNOWN_TO_DOCKERD, FAILS_AT_START, FAILS_AT_RELOAD, WRONG_MIRROR])
def test_refused_options_do_not_change_a_running_machine(
    kept: Pymachine, settings: str, flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(kept, "modify", *flags, "good").text
    assert engine_settings(kept) == settings


# -- certificates ------------------------------------------------------------------------------------------------


def authority(folder: Path) -> certs.AuthPaths:
    folder.mkdir(parents=True, exist_ok=True)
    return certs.AuthPaths(*(folder / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))


def test_a_client_certificate_of_another_ca_is_reported(kept: Pymachine, tmp_path: Path) -> None:
    foreign = authority(tmp_path / "other")
    certs.ensure_authority(foreign, reporter=Silent())
    client = ("--tls-client-cert", str(foreign.client_cert), "--tls-client-key", str(foreign.client_key))
    outcome = refused(kept, *client, "create", "x")
    assert "unknown certificate authority" in outcome.stderr
    assert "does not accept the client's certificate" in outcome.stderr
    assert BOOTED not in outcome.stdout


def test_a_ca_that_is_not_valid_yet_is_reported(kept: Pymachine, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime as dt

    now = certs._now()
    with monkeypatch.context() as ahead, private_store(PYMACHINE_CACHE=kept.env["PYMACHINE_CACHE"]) as program:
        ahead.setattr(certs, "_now", lambda: now + dt.timedelta(days=1))
        certs.ensure_authority(authority(program.store / "certs"), reporter=Silent())
        outcome = refused(program, "create", "x")
        assert "is not valid before" in outcome.stderr
        assert "clock" in outcome.stderr
        assert program("ls", "-q").stdout == ""


# -- the host ----------------------------------------------------------------------------------------------------


def test_a_too_short_boot_timeout_is_reported(kept: Pymachine) -> None:
    outcome = kept("create", "x", code=1, env={"PYMACHINE_BOOT_TIMEOUT": "0.05"})
    assert "within 0.05 seconds" in outcome.stderr


def test_the_template_is_still_used(kept: Pymachine) -> None:
    """Of all the failures above, none has led to another template."""
    text = kept("create", "next").stdout
    assert (MADE in text, RESUMED in text, BOOTED in text) == (False, True, False)
    kept("rm", "-y", "next")


# -- copied caches -----------------------------------------------------------------------------------------------


def copied(cache: Path, target: Path) -> None:
    subprocess.run(["cp", "-aL", cache, target], check=True)


def copied_without_times(cache: Path, target: Path) -> None:
    subprocess.run(["cp", "-rL", cache, target], check=True)


def packed(cache: Path, target: Path) -> None:
    """Copy like CI caches, with tar; without -S it fills holes with zeros."""
    target.mkdir()
    script = f"tar -c -h -C {cache} --mtime=@1 . | tar -x -m -C {target}"
    subprocess.run(["bash", "-o", "pipefail", "-c", script], check=True)


@pytest.fixture
def small(host: Pymachine, tmp_path: Path) -> Path:
    """The part of the host's cache that a CI job needs, with an image of its own.

    Other tests link to the shared image when they create machines. That changes its ctime, and tar, which reads it,
    fails with "file changed as we read it".
    """
    cache = Path(host.env["PYMACHINE_CACHE"])
    digest = json.loads((folder_of(host, "good") / "config.json").read_text())["Driver"]["ImageDigest"]
    part = tmp_path / "part"
    (part / "images").mkdir(parents=True)
    shutil.copytree(cache / "images" / f"amd64-{digest[:12]}", part / "images" / f"amd64-{digest[:12]}")
    (part / "templates").symlink_to(cache / "templates")
    return part


@pytest.mark.parametrize(
    ("restore", "names"), [(copied, ["one"]), (copied_without_times, ["one"]), (packed, ["one", "two"])]
)
def test_machines_resume_from_a_restored_cache(
    small: Path, tmp_path: Path, restore: Callable[[Path, Path], None], names: list[str]
) -> None:
    """The cache has another path, store and HOME."""
    restored = tmp_path / "restored"
    restore(small, restored)
    with private_store(PYMACHINE_CACHE=str(restored)) as program:
        for name in names:
            text = program("create", name).stdout
            assert (MADE in text, RESUMED in text, BOOTED in text, "removed" in text) == (False, True, False, False)
            assert ssh(program, name, "hostname") == f"{name}\n"
    shutil.rmtree(restored)


def test_an_incomplete_copy_of_a_template_is_built_again(small: Path, tmp_path: Path) -> None:
    restored = tmp_path / "restored"
    copied(small, restored)
    (memory,) = restored.glob("templates/*/memory")
    size = memory.stat().st_size
    os.truncate(memory, size // 2)
    os.truncate(memory, size)
    with private_store(PYMACHINE_CACHE=str(restored)) as program:
        process = program.start("create", "one")
        text = read_until(MADE, process)
        assert "is not as it was made" in text
        assert RESUMED not in text
        interrupt(process)  # test_a_damaged_template_is_built_again lets it end
        assert template_folders(program) == []
    shutil.rmtree(restored)
