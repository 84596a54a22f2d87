"""Shared folders of the driver virtualbox, and how they go together with docker-machine's own share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest

from pymachine.cli import create, run, share_options
from pymachine.driver.abilities import DefaultShareable, Shareable
from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.shares import Share
from pymachine.driver.testing import defaults, reference
from pymachine.errors import CommandError, DriverError, UnsupportedError, UsageError
from pymachine.hosts.shares import ShareError, ShareRequest, accepted
from pymachine.system.progress import Silent
from pymachine_driver_virtualbox import Driver, boot, shared_folders, shares as own_shares, vm
from pymachine_driver_virtualbox.driver import VirtualBoxDriver


class Warnings(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def warn(self, text: str) -> None:
        self.seen.append(text)


class Calls:
    """The arguments of calls of VBoxManage, none of which is made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, *words: str | Path) -> str:
        self.made.append(" ".join(map(str, words)))
        return ""


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that docker-machine shares by default."""
    folder = tmp_path / "home"
    (folder / "me" / "src").mkdir(parents=True)
    monkeypatch.setattr(own_shares, "DEFAULTS", {"linux": (folder, "hosthome")})
    return folder


def share(path: Path, guest_path: str = "", *, read_only: bool = False) -> Share:
    return Share(path=path, guest_path=PurePosixPath(guest_path or path), read_only=read_only)


def make(folder: Path, **options: object) -> VirtualBoxDriver:
    ref = reference(folder / "store", "m1")
    return Driver(ref, dict(Driver.configure(ref, defaults(Driver, **options), [])), reporter=Warnings())


def own(driver: VirtualBoxDriver) -> list[str]:
    """Return where docker-machine's shares are mounted."""
    return [each.mount_point for each in vm.chosen_shares(driver)]


def info_of(found: Iterable[Share]) -> dict[str, str]:
    """Return the lines of showvminfo for a machine with these folders."""
    lines = {}
    for number, each in enumerate(found, 1):
        lines[f"SharedFolderNameMachineMapping{number}"] = shared_folders.name(each)
        lines[f"SharedFolderPathMachineMapping{number}"] = str(each.path)
    return lines


# -- names and calls ---------------------------------------------------------------------------------------------


def test_everything_about_a_share_is_in_its_name(homes: Path) -> None:
    first = share(homes, "/a")
    names = {
        shared_folders.name(each)
        for each in (first, share(homes / "me", "/a"), share(homes, "/b"), replace(first, read_only=True))
    }
    assert len(names) == 4
    assert shared_folders.name(share(homes, "/a")) == shared_folders.name(first)
    assert shared_folders.existing(info_of([first])) == {shared_folders.name(first): str(homes)}


def test_only_differences_are_changed(homes: Path) -> None:
    kept, added, removed = share(homes), share(homes / "me", "/a,b", read_only=True), share(homes / "me" / "src")
    info = {
        **info_of([kept, removed]),
        "SharedFolderNameMachineMapping7": "hosthome",
        "SharedFolderPathMachineMapping7": "/home",
        "SharedFolderNameMachineMapping8": "pymachine-mine",
        "SharedFolderPathMachineMapping8": "/srv",
    }
    calls: Any = Calls()
    shared_folders.update(calls, "U", info, [kept, added])
    assert calls.made == [
        f"sharedfolder remove U --name {shared_folders.name(removed)}",
        f"sharedfolder add U --name {shared_folders.name(added)} --hostpath {homes / 'me'} --readonly",
    ]
    calls.made.clear()
    shared_folders.update(calls, "U", info, [kept, removed])
    assert calls.made == []
    assert [each.name for each in shared_folders.others(info)] == ["hosthome", "pymachine-mine"]


def test_a_vanished_folder_is_shared_again_when_it_is_back(homes: Path) -> None:
    there, gone = share(homes), share(homes / "gone")
    calls: Any = Calls()
    shared_folders.update(calls, "U", info_of([there, gone]), [there, gone])
    assert calls.made == [f"sharedfolder remove U --name {shared_folders.name(gone)}"]
    calls.made.clear()
    gone.path.mkdir()
    shared_folders.update(calls, "U", info_of([there]), [there, gone])
    assert calls.made == [f"sharedfolder add U --name {shared_folders.name(gone)} --hostpath {gone.path}"]


def test_the_identity_has_the_mounts_that_virtualbox_can_serve(homes: Path) -> None:
    from pymachine.driver.kit import guest_mounts

    outer, inner, gone = share(homes, "/w"), share(homes / "me", "/w/me", read_only=True), share(homes / "gone")
    empty = bytes(10240)
    tar = shared_folders.with_mounts(empty, [inner, gone, outer])
    lines = [
        f"vboxsf\t{shared_folders.name(outer)}\trw,nosuid,nodev,uid=1000,gid=1000\t/w\n",
        f"vboxsf\t{shared_folders.name(inner)}\tro,nosuid,nodev,uid=1000,gid=1000\t/w/me\n",
    ]
    assert "".join(lines).encode() in tar
    assert guest_mounts.MEMBER.encode() in tar
    served = shared_folders.with_mounts(empty, [inner, outer], {shared_folders.name(outer)})
    assert lines[0].encode() in served
    assert lines[1].encode() not in served
    assert shared_folders.with_mounts(empty, [gone]) == empty


# -- paused and saved machines -----------------------------------------------------------------------------------


def check_resumable(found: Iterable[Share], wanted: list[Share]) -> list[str]:
    reporter = Warnings()
    shared_folders.check_resumable(
        "m1", shared_folders.existing(info_of(found)), wanted, what="its memory", hint="kill it", reporter=reporter
    )
    return reporter.seen


def test_a_saved_machine_must_not_have_more_than_the_record(homes: Path) -> None:
    first, second = share(homes), share(homes / "me")
    assert check_resumable([first, second], [second, first]) == []
    with pytest.raises(DriverError, match=f"cannot be resumed: its memory has .* {homes}/me") as caught:
        check_resumable([first, second], [first])
    assert caught.value.hint == "kill it"
    with pytest.raises(DriverError, match="that were changed since"):
        check_resumable([first], [replace(first, read_only=True)])


def test_a_saved_machine_with_fewer_shares_is_resumed_with_a_warning(homes: Path) -> None:
    first, second, gone = share(homes), share(homes / "me"), share(homes / "gone")
    assert check_resumable([first, gone], [first, second, gone]) == [
        f"{homes}/me is not shared until the machine starts without its memory: its memory lacks it."
    ]


# -- which folders are refused -----------------------------------------------------------------------------------


def test_folders_that_virtualbox_cannot_take_are_refused(tmp_path: Path) -> None:
    driver = make(tmp_path, virtualbox_no_share=True)
    assert isinstance(driver, Shareable)
    many = [share(tmp_path / str(number)) for number in range(shared_folders.MOST)]
    driver.check_shares(many)
    with pytest.raises(UsageError, match="at most 32 folders, not 33"):
        driver.check_shares([*many, share(tmp_path)])
    with pytest.raises(UsageError, match=r"'/srv/\\udcff' cannot be shared: VirtualBox takes only paths in UTF-8"):
        driver.check_shares([share(Path(os.fsdecode(b"/srv/\xff")))])
    driver.check_shares([share(tmp_path / name) for name in ("a,b", "a b", "äöü", 'a"b', "a\\b")])


def test_a_share_does_not_contradict_docker_machines(tmp_path: Path, homes: Path) -> None:
    driver = make(tmp_path, virtualbox_share_folder=f"{homes}:data/homes")
    with pytest.raises(UsageError, match="cannot be read-only: it is in .*, which the guest can change at /data/homes"):
        driver.check_shares([share(homes / "me", read_only=True)])
    driver.check_shares([share(homes / "me")])
    for hides in ("/data", "/data/homes"):
        with pytest.raises(UsageError, match="it would hide"):
            driver.check_shares([share(tmp_path, hides)])
    with pytest.raises(UsageError, match=f"there is no folder {homes}/other"):
        driver.check_shares([share(tmp_path, "/data/homes/other")])
    driver.check_shares([share(tmp_path, "/data/homes/me")])


def test_a_guest_with_boot2dockers_image_mounts_no_shares(tmp_path: Path, homes: Path) -> None:
    driver = Driver(reference(tmp_path / "store", "old"), {"SSHUser": "docker"})
    with pytest.raises(UnsupportedError, match="upgrade it first"):
        driver.check_shares([share(homes)])
    driver.config["ImageDigest"] = "0" * 64
    driver.check_shares([share(homes)])


# -- docker-machine's share and ours -----------------------------------------------------------------------------


def test_by_default_the_home_and_docker_machines_share_are_shared(tmp_path: Path, homes: Path) -> None:
    driver = make(tmp_path)
    assert isinstance(driver, DefaultShareable)
    request = ShareRequest(shares=(share(homes / "me"),), is_default=True, keeps_driver_defaults=True)
    assert accepted(driver, request) == [share(homes / "me")]
    assert own(driver) == ["/hosthome"]


@pytest.mark.parametrize("chosen", [True, False])
def test_a_choice_replaces_docker_machines_default(tmp_path: Path, homes: Path, *, chosen: bool) -> None:
    driver = make(tmp_path)
    shares = (share(homes / "me" / "src", read_only=True),) if chosen else ()
    assert accepted(driver, ShareRequest(shares=shares)) == list(shares)
    assert own(driver) == []


def test_the_current_folder_alone_replaces_docker_machines_default(tmp_path: Path, homes: Path) -> None:
    driver = make(tmp_path)
    current = share(homes / "me" / "src")
    assert accepted(driver, ShareRequest(shares=(current,), is_default=True)) == [current]
    assert own(driver) == []


def test_a_folder_that_docker_machines_option_names_stays(tmp_path: Path, homes: Path) -> None:
    for request in (ShareRequest(), ShareRequest(shares=(share(homes / "me"),))):
        driver = make(tmp_path, virtualbox_share_folder=f"{homes}:work")
        assert accepted(driver, request) == list(request.shares)
        assert own(driver) == ["/work"]


@pytest.mark.parametrize("keeps", [True, False])
def test_docker_machines_options_replace_the_default(tmp_path: Path, homes: Path, *, keeps: bool) -> None:
    request = ShareRequest(shares=(share(homes / "me"),), is_default=True, keeps_driver_defaults=keeps)
    none = make(tmp_path, virtualbox_no_share=True)
    assert accepted(none, request) == []
    assert own(none) == []
    one = make(tmp_path, virtualbox_share_folder=f"{homes}:work")
    assert accepted(one, request) == []
    assert own(one) == ["/work"]


def test_both_options_together_share_what_they_say(tmp_path: Path, homes: Path) -> None:
    driver = make(tmp_path, virtualbox_no_share=True)
    assert accepted(driver, ShareRequest(shares=(share(homes),))) == [share(homes)]
    assert own(driver) == []


def test_a_refused_share_is_an_error(tmp_path: Path, homes: Path) -> None:
    with pytest.raises(ShareError, match="it does not exist"):
        accepted(make(tmp_path), ShareRequest(shares=(share(homes / "gone"),)))


def test_only_create_outside_of_ci_keeps_a_drivers_default(
    tmp_path: Path, homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(homes / "me"))
    monkeypatch.chdir(homes / "me" / "src")

    def keeps(command: click.Command, *words: str) -> bool:
        ctx = click.Context(command)
        command.parse_args(ctx, ["--driver", "none", *words, "name"])
        shares, _ = share_options.request(ctx, tmp_path, command=str(command.name))
        return shares.keeps_driver_defaults

    monkeypatch.delenv("CI", raising=False)
    assert keeps(create.command)
    assert not keeps(run.command)
    assert not keeps(create.command, "--share", str(homes))
    assert not keeps(create.command, "--no-share")
    monkeypatch.setenv("CI", "true")
    assert not keeps(create.command)


# -- after a start -----------------------------------------------------------------------------------------------

MOUNTS = "tmpfs / tmpfs rw 0 0\n{name} /srv/with\\040blank vboxsf rw,nosuid,nodev 0 0\n{other} /x ext4 rw 0 0\n"


def check_mounts(driver: VirtualBoxDriver, found: list[Share], answer: str | Exception) -> list[str]:
    class Box:
        def info(self, machine: str) -> dict[str, str]:
            return info_of(found)

    def run(endpoint: Endpoint, command: str, **_: object) -> str:
        assert command == "cat /proc/mounts"
        if isinstance(answer, Exception):
            raise answer
        return answer

    box: Any = Box()
    driver.run_in_guest = run
    boot._check_mounts(driver, box, BootRequest(identity=lambda _: b"", shares=found))
    assert isinstance(driver.reporter, Warnings)
    return driver.reporter.seen


def test_folders_that_the_guest_did_not_mount_are_named(tmp_path: Path, homes: Path) -> None:
    first, second = share(homes), share(homes / "me")
    mounts = MOUNTS.format(name=shared_folders.name(first), other=shared_folders.name(second))
    assert check_mounts(make(tmp_path), [first], mounts) == []
    (warning,) = check_mounts(make(tmp_path), [first, second], mounts)
    assert warning.startswith(f"The guest did not mount the shared folder {homes}/me. See its console log")


def test_a_guest_that_cannot_be_asked_is_no_failure(tmp_path: Path, homes: Path) -> None:
    (warning,) = check_mounts(make(tmp_path), [share(homes)], CommandError("no login"))
    assert warning == "It is not known whether the shared folders are mounted: no login"
