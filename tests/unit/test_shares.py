"""Shared folders: their texts, what is refused, and what a machine's record may say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest, DriverInfo, MachineRef, Trait
from pymachine.driver.shares import MOST, in_mount_order, problem
from pymachine.errors import DriverError, RecordError, UnsupportedError, UsageError
from pymachine.hosts import ssh_shares
from pymachine.hosts.boot import boot
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.shares import (
    ShareError,
    ShareRequest,
    absolute,
    accepted,
    at_same_path,
    changed,
    check,
    listed,
    parse,
    shown,
    warn_of_missing,
)
from pymachine.store.record import Machine
from pymachine.store.store import Store
from support.reporters import RecordingReporter
from support.sharing import Plain, Sharing, install, share
from support.unprivileged import USERS, run_as_user

BASE = Path("/here/project")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


# -- texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "guest", "read_only"),
    [
        ("/data", "/data", "/data", False),
        ("/data/", "/data", "/data", False),
        ("//data", "/data", "/data", False),
        ("///data//x", "/data/x", "/data/x", False),
        ("/data/./x/../y", "/data/y", "/data/y", False),
        ("/data:ro", "/data", "/data", True),
        ("/data:rw", "/data", "/data", False),
        ("/data:/srv", "/data", "/srv", False),
        ("/data:/srv/", "/data", "/srv", False),
        ("/data://srv/./x", "/data", "/srv/x", False),
        ("/data:/srv:ro", "/data", "/srv", True),
        ("/data:/srv:rw", "/data", "/srv", False),
        (".", "/here/project", "/here/project", False),
        ("..", "/here", "/here", False),
        ("src:ro", "/here/project/src", "/here/project/src", True),
        ("../src:/app", "/here/src", "/app", False),
        ("/a b,c", "/a b,c", "/a b,c", False),
        (" ", "/here/project/ ", "/here/project/ ", False),
        ("/grüße/日本", "/grüße/日本", "/grüße/日本", False),
        # A no-break space and an emoji of several characters are not "printable" for Python.
        ("/a\u00a0b/\U0001f469\u200d\U0001f4bb", "/a\u00a0b/\U0001f469\u200d\U0001f4bb", "", False),
        ("/" + "x" * 200, "/" + "x" * 200, "", False),
        ("/usr:/host/usr", "/usr", "/host/usr", False),
        ("/:/host", "/", "/host", False),  # refused by `check`
        ("$HOME", "/here/project/$HOME", "", False),
        ("~nosuchuser", "/here/project/~nosuchuser", "", False),
    ],
)
def test_texts_are_parsed(text: str, path: str, guest: str, read_only: bool) -> None:
    parsed = parse(text, base=BASE)
    assert parsed == share(path, guest, read_only=read_only)
    assert str(parsed.path) == path


def test_a_tilde_is_a_home_folder(home: Path) -> None:
    for text, path in (("~", home), ("~/", home), ("~/work:ro", home / "work"), ("~root", Path("/root"))):
        assert parse(text, base=None).path == path
    assert parse("~/work:/w", base=None) == share(home / "work", "/w")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no folder to share in ''"),
        (":ro", "no folder to share in ':ro'"),
        (":/srv", "no folder to share in"),
        ("/data:", "expected PATH[:GUEST_PATH][:ro], with an absolute GUEST_PATH"),
        ("/data:srv", "with an absolute GUEST_PATH"),
        ("/data:~/srv", "with an absolute GUEST_PATH"),
        ("/data:ro:ro", "with an absolute GUEST_PATH"),
        ("/data:/srv:ro:ro", "with an absolute GUEST_PATH"),
        ("/data:/srv:z", "with an absolute GUEST_PATH"),
        ("/data:/srv:RO", "with an absolute GUEST_PATH"),
        ("/a:b:/srv", "with an absolute GUEST_PATH"),
        ("/data:/srv/../etc", "contains .."),
        ("/data:/..", "contains .."),
        ("/data:/", "/ is the guest's own root"),
        ("/", "/ is the guest's own root"),
        ("/.", "/ is the guest's own root"),
        ("//", "/ is the guest's own root"),
        ("/data/..", "/ is the guest's own root"),
        ("/a\nb", "contains a control character"),
        ("/a\tb", "contains a control character"),
        ("/a\0b", "contains a control character"),
        ("/a\x1b[2Jb", "contains a control character"),
        ("/a\x7f", "contains a control character"),
        ("~\0x", "contains a control character"),
        ("/data:/a\nb", "contains a control character"),
        ("/caf\udce9", "is not UTF-8 text"),
        ("/data:/caf\udce9", "is not UTF-8 text"),
    ],
)
def test_texts_that_name_no_folder_are_refused(text: str, message: str) -> None:
    with pytest.raises(ShareError) as caught:
        parse(text, base=BASE)
    assert message in caught.value.brief


def test_a_colon_in_the_path_is_explained() -> None:
    with pytest.raises(ShareError) as caught:
        parse("/a:b:/srv", base=None)
    assert "colon" in caught.value.hint


@pytest.mark.parametrize("base", ["/a:b", "/a:/b", "/a:ro", "/a\nb", "/a\x1bb", "/caf\udce9"])
def test_a_current_folder_of_an_odd_name_is_not_read_as_a_text(base: str) -> None:
    """`/a:/b` would be the folder /a, and a line break another line for the guest."""
    attempts: list[Callable[[], object]] = [lambda: parse(".", base=Path(base)), lambda: at_same_path(Path(base))]
    for attempt in attempts:
        with pytest.raises(ShareError, match="cannot be shared: its path (contains a|is not UTF-8)"):
            attempt()


def test_a_folder_is_shared_at_its_own_path() -> None:
    assert at_same_path(Path("/data/x")) == share("/data/x")
    assert at_same_path(Path("//data/./x/../y")) == share("/data/y")
    with pytest.raises(ShareError, match="must be absolute"):
        at_same_path(Path("data"))


@pytest.mark.parametrize("text", ["data", ".", "./x:/srv", "~nosuchuser/x"])
def test_without_a_current_folder_a_path_must_be_absolute(text: str) -> None:
    with pytest.raises(ShareError, match="must be absolute, or begin with ~/"):
        parse(text, base=None)


@pytest.mark.parametrize(
    ("guest", "hidden"),
    [
        *((path, path) for path in ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/dev", "/proc")),
        *((path, path) for path in ("/sys", "/run", "/init", "/home/docker", "/var/lib/docker", "/var/lib/containerd")),
        *((path, path) for path in ("/var/lib/boot2docker", "/var/log", "/var/run", "/var/lock")),
        *((path, path) for path in ("/home", "/mnt", "/tmp", "/var", "/var/lib", "/var/tmp", "/mnt/sda1")),
        ("/usr/local/src", "/usr"),
        ("/var/lib/docker/volumes", "/var/lib/docker"),
        ("/home/docker/x", "/home/docker"),
        ("/mnt/sda1/x", "/mnt/sda1/x"),
        ("//usr/", "/usr"),
        ("/./usr", "/usr"),
    ],
)
def test_the_guests_own_folders_are_not_hidden(guest: str, hidden: str) -> None:
    with pytest.raises(ShareError) as caught:
        parse(f"/some/folder:{guest}", base=None)
    assert caught.value.brief.endswith(f"in the guest it would hide {hidden}")
    # The hint names the host's folder, and works.
    assert "--share /some/folder:/host/" in caught.value.hint
    assert parse(caught.value.hint.partition("--share ")[2], base=None).path == Path("/some/folder")


@pytest.mark.parametrize(
    "guest",
    ["/home/anna", "/mnt/data", "/mnt/sda", "/tmp/x", "/var/www", "/var/lib/x", "/usrx", "/root", "/srv", "/opt"],
)
def test_other_paths_of_the_guest_are_free(guest: str) -> None:
    assert parse(f"/data:{guest}", base=None).guest_path == PurePosixPath(guest)


def test_long_values_are_cut_in_messages() -> None:
    assert shown("x" * 120) == "x" * 120
    assert shown("x" * 4000) == f"{'x' * 120}... (4000 characters)"
    for attempt in (
        lambda: parse("/" + "x" * 4000 + ":y", base=None),
        lambda: parse("/" + "x" * 4000 + "\n", base=None),
        lambda: parse("/data:/usr/" + "x" * 4000, base=None),
        lambda: check([share("/" + "x" * 4000)]),
        lambda: changed([share("/" + "x" * 4000)], added=(), removed=["/" + "y" * 4000]),
    ):
        with pytest.raises(ShareError) as caught:
            attempt()
        assert len(caught.value.brief) + len(caught.value.hint) < 600
    many = [share(f"/data/{number}") for number in range(20)]
    assert listed(many).endswith("/data/7, 12 more")
    assert listed([]) == "no folder"


def test_a_share_is_shown_as_its_option() -> None:
    for text in ("/data", "/data:ro", "/data:/srv", "/data:/srv:ro"):
        assert str(parse(text, base=None)) == text
        assert parse(str(parse(text, base=None)), base=None) == parse(text, base=None)


# -- folders that cannot be shared -------------------------------------------------------------------------------


def test_a_folder_must_exist(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "to-root").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("none", "it does not exist"),
        ("file", "it is not a folder"),
        ("pipe", "it is not a folder"),
        ("file/x", "it does not exist"),
        ("dangling", "it does not exist"),
        ("loop", "it is a loop of symbolic links"),
        ("loop/x", "it is a loop of symbolic links"),
        ("x" * 300, "its path is too long"),
        ("x/" * 2500, "its path is too long"),
        ("to-root", "it is the whole file system; name the folders that the machine needs"),
        ("to-root/..", "it is the whole file system; name the folders that the machine needs"),
        ("link", ""),
        (".", ""),
    ):
        each = share(tmp_path / name, "/x")
        assert problem(each) == why
        if why:
            with pytest.raises(ShareError, match=why) as caught:
                check([each])
            assert caught.value.hint
        else:
            check([each])
    assert problem(share("/", "/host")).startswith("it is the whole file system")


@pytest.mark.parametrize("user", USERS)
def test_a_folder_must_be_readable_and_may_belong_to_another_user(user: int) -> None:
    modes = {"secret": 0, "listed": 0o444, "entered": 0o111, "open": 0o555}

    def check_all() -> None:
        found = {name: problem(share(folder / name, "/x")) for name in (*modes, "secret/inner")}
        unreadable = dict.fromkeys(("secret", "listed", "entered", "secret/inner"), "this user cannot read it")
        expected = dict.fromkeys(found, "") if os.geteuid() == 0 else {**unreadable, "open": ""}
        assert found == expected

    # Not below `tmp_path`, which other users cannot enter.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            for name, mode in modes.items():
                (folder / name / "inner").mkdir(parents=True)
                (folder / name).chmod(mode)
            run_as_user(user, check_all)
        finally:
            for name in modes:
                (folder / name).chmod(0o700)


def test_a_failing_file_system_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: Path) -> os.stat_result:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(Path, "stat", fail)
    assert problem(share(tmp_path)) == "Transport endpoint is not connected"


def test_no_folder_is_shared_twice(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with pytest.raises(ShareError, match="/one is given twice"):
        check([share(one, "/x"), share(one, "/x", read_only=True)])
    with pytest.raises(ShareError, match="two folders cannot be shared at the same path in the guest"):
        check([share(one, "/x"), share(two, "/x")])
    check([share(one, "/x"), share(one, "/y"), share(two, "/z")])


def test_a_machine_shares_a_limited_number_of_folders(tmp_path: Path) -> None:
    many = [share(tmp_path, f"/x/{number}") for number in range(MOST)]
    check(many[:2], others=many)
    with pytest.raises(ShareError, match=f"at most {MOST} folders, not {MOST + 1}"):
        check([share(tmp_path, "/y")], others=many)


def test_a_folder_below_another_needs_a_folder_to_be_mounted_at(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    outer = share(tmp_path / "outer", "/o")
    check([outer, share(tmp_path / "other", "/o/inner")])
    check([share(tmp_path / "outer" / "inner"), share(tmp_path / "outer")])  # in any order
    for shares in (
        [outer, share(tmp_path / "other", "/o/none")],
        [share(tmp_path / "other", "/o/none"), outer],
    ):
        with pytest.raises(ShareError, match="there is no folder .*/outer/none"):
            check(shares)
    with pytest.raises(ShareError, match="there is no folder"):
        check([share(tmp_path / "other", "/o/none")], others=[outer])
    with pytest.raises(ShareError, match="there is no folder"):
        check([outer], others=[share(tmp_path / "other", "/o/none")])
    # The shares that the machine had before are not checked again, since their folders may be missing now.
    check([share(tmp_path / "other")], others=[outer, share(tmp_path / "other", "/o/none")])
    assert [str(each.guest_path) for each in in_mount_order([share("/b/c/d"), share("/b"), share("/b/c")])] == [
        *("/b", "/b/c", "/b/c/d")
    ]


def test_a_link_in_a_shared_folder_is_no_place_for_another(tmp_path: Path) -> None:
    """The guest would follow the link, to its own /usr for example."""
    (tmp_path / "outer" / "real" / "deep").mkdir(parents=True)
    (tmp_path / "outer" / "link").symlink_to("/usr")
    (tmp_path / "outer" / "inside").symlink_to("real")
    other = tmp_path / "other"
    other.mkdir()
    outer = share(tmp_path / "outer", "/o")
    for guest in ("/o/link", "/o/inside", "/o/inside/deep"):
        with pytest.raises(ShareError, match="symbolic link") as caught:
            check([outer, share(other, guest)])
        assert str(other) in caught.value.hint
    # The shared folder itself may be reached through one.
    (tmp_path / "to-outer").symlink_to("outer")
    check([share(tmp_path / "to-outer", "/o"), share(other, "/o/real")])


def test_a_read_only_folder_is_not_writable_through_another(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("outer/inner")
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    for shares in (
        [share(outer), share(inner, read_only=True)],
        [share(inner, read_only=True), share(outer)],
        [share(outer, "/o"), share(inner, "/i", read_only=True)],
        [share(outer, "/o"), share(tmp_path / "link", "/i", read_only=True)],
        [share(outer, "/o"), share(outer, "/i", read_only=True)],
    ):
        with pytest.raises(ShareError, match="cannot be read-only"):
            check(shares)
    with pytest.raises(ShareError, match="cannot be read-only"):
        check([share(outer)], others=[share(inner, read_only=True)])
    check([share(outer, read_only=True), share(inner, read_only=True)])
    check([share(outer, read_only=True), share(inner)])


def test_a_loop_of_another_share_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "new").mkdir()
    check([share(tmp_path / "new")], others=[share(tmp_path / "loop")])


# -- changes -----------------------------------------------------------------------------------------------------


def test_shares_are_added_replaced_and_removed() -> None:
    data, other = share("/data", "/srv", read_only=True), share("/other")
    assert changed([data], added=[other], removed=()) == [data, other]
    assert changed([data, other], added=[share("/new", "/srv")], removed=()) == [other, share("/new", "/srv")]
    for word in ("/data", "/srv", "/data:/srv:ro"):
        assert changed([data, other], added=(), removed=[word]) == [other]
    assert changed([data], added=[share("/data", "/srv")], removed=["/data"]) == [share("/data", "/srv")]
    assert changed([share("/a", "/x"), share("/a", "/y"), other], added=(), removed=["/a"]) == [other]
    for word in ("/none", "", "srv", "/data:ro"):
        with pytest.raises(ShareError, match="is not shared with the machine") as caught:
            changed([data, other], added=(), removed=[word])
        assert caught.value.hint == "Shared folders: /data:/srv:ro, /other"
    with pytest.raises(ShareError) as caught:
        changed([data], added=(), removed=["/data", "/data"])
    assert caught.value.hint == "Shared folders: no folder"


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("/data/", "/data"),
        ("//data", "/data"),
        ("/data/../x/.", "/x"),
        ("/", "/"),
        (".", "/here/project"),
        ("../x/", "/here/x"),
        ("/data:/srv:ro", "/data:/srv:ro"),
        ("", ""),
        ("a\0b", "a\0b"),
    ],
)
def test_the_path_of_a_share_to_remove_is_made_absolute(word: str, path: str) -> None:
    assert absolute(word, base=BASE) == path


def test_the_home_is_known_when_a_share_is_removed(home: Path) -> None:
    assert absolute("~/work", base=BASE) == str(home / "work")
    assert absolute("work", base=None) == "work"


# -- machines ----------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sharing:
    install(monkeypatch)
    made = Sharing(MachineRef("m", tmp_path, tmp_path, tmp_path / "key"), {})
    made.reporter = RecordingReporter()
    return made


def lines(driver: Sharing | Plain) -> list[str]:
    assert isinstance(driver.reporter, RecordingReporter)
    return driver.reporter.lines


def test_shares_that_were_asked_for_are_required(driver: Sharing, tmp_path: Path) -> None:
    good = share(tmp_path, "/x")
    assert accepted(driver, ShareRequest(shares=(good,))) == [good]
    with pytest.raises(ShareError, match="does not exist"):
        accepted(driver, ShareRequest(shares=(good, share("/no/such"))))
    many = tuple(share(tmp_path, f"/x{number}") for number in range(4))
    with pytest.raises(UsageError, match="at most 3"):
        accepted(driver, ShareRequest(shares=many))
    assert accepted(driver, ShareRequest()) == []
    assert lines(driver) == []


def test_a_driver_that_cannot_share_refuses_shares_and_has_no_default(driver: Sharing, tmp_path: Path) -> None:
    plain = Plain(driver.machine, {})
    plain.reporter = RecordingReporter()
    with pytest.raises(UnsupportedError, match="plain driver does not support shared folders"):
        accepted(plain, ShareRequest(shares=(share("/no/such"),)))
    assert accepted(plain, ShareRequest(shares=(share(tmp_path),), is_default=True)) == []
    assert accepted(plain, ShareRequest(is_default=True, problem="it is broken")) == []
    assert lines(plain) == []


def test_a_machine_on_another_host_gets_no_default(driver: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "where", "other-host")
    assert accepted(driver, ShareRequest(shares=(share("/no/such"),), is_default=True)) == []
    assert lines(driver) == []


def test_a_default_that_cannot_be_had_is_left_out_with_a_warning(driver: Sharing, tmp_path: Path) -> None:
    good = share(tmp_path, "/x")
    assert accepted(driver, ShareRequest(shares=(good,), is_default=True)) == [good]
    assert lines(driver) == []
    assert accepted(driver, ShareRequest(shares=(share("/no/such"), good), is_default=True)) == [good]
    assert [line.partition(". ")[0] for line in lines(driver)] == [
        "/no/such is not shared with the machine: it does not exist"
    ]
    lines(driver).clear()
    for request, why in (
        (ShareRequest(is_default=True, problem="it is broken"), "it is broken"),
        (ShareRequest(shares=(good, share(tmp_path, "/x")), is_default=True), f"{tmp_path} is given twice"),
        (
            ShareRequest(shares=tuple(share(tmp_path, f"/x{number}") for number in range(4)), is_default=True),
            "a machine shares at most 3 folders, not 4",
        ),
    ):
        assert accepted(driver, request) == []
        (line,) = lines(driver)
        assert line.startswith(f"The machine shares no folder with this host: {why}. ")
        assert "--no-share" in line
        lines(driver).clear()


def test_a_driver_that_does_not_work_has_no_default_and_reports_later(
    driver: Sharing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`precreate_check` reports it, with docker-machine's message and exit code."""

    def fail(self: Sharing, shares: object) -> None:
        raise DriverError("hypervisor not found")

    monkeypatch.setattr(Sharing, "check_shares", fail)
    assert accepted(driver, ShareRequest(shares=(share(tmp_path, "/x"),), is_default=True)) == []
    assert lines(driver) == []
    with pytest.raises(DriverError):
        accepted(driver, ShareRequest(shares=(share(tmp_path, "/x"),)))


def test_a_default_that_needs_ssh_is_left_out_without_it(
    driver: Sharing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sharing, "shares_over_ssh", lambda _: True, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    good = share(tmp_path, "/x")
    assert accepted(driver, ShareRequest(shares=(good,), is_default=True)) == []
    (line,) = lines(driver)
    assert "by OpenSSH's client, ssh, which is not installed" in line
    with pytest.raises(ssh_shares.ShareMountError):
        accepted(driver, ShareRequest(shares=(good,)))


def test_a_machine_with_our_image_works_without_a_folder_that_it_cannot_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike an existing host, whose folders are never a default."""
    install(monkeypatch)
    reporter = RecordingReporter()
    host = Host(Hosts(Store(tmp_path), reporter=reporter), Machine("m", "sharing", {}))
    host.store.add(host.record)
    request = BootRequest(identity=lambda _: b"", timeout=1)

    def refuse(_: Host) -> None:
        raise ssh_shares.ShareMountError("its image has no sshfs", hint="Upgrade it.")

    monkeypatch.setattr(ssh_shares, "mount", refuse)
    monkeypatch.setattr(Host, "wait_for_engine", lambda *_, **__: None)
    boot(host, lambda _: None, request)
    assert reporter.lines[-1] == "its image has no sshfs. Upgrade it."
    monkeypatch.setattr(Sharing, "info", DriverInfo("existing", "for tests", Trait.PROVISION | Trait.FIXED_ADDRESS))
    with pytest.raises(ssh_shares.ShareMountError):
        boot(host, lambda _: None, request)


@pytest.mark.parametrize(
    ("ability", "expected"),
    [
        ("missing_shares", "folders are shared with this machine by OpenSSH's client"),
        ("notifies_over_ssh", "changes in shared folders are reported to this machine by OpenSSH's client"),
    ],
)
def test_a_machine_whose_driver_mounts_the_folders_works_without_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ability: str, expected: str
) -> None:
    install(monkeypatch)
    shares = [share(tmp_path, "/x")]
    monkeypatch.setattr(Sharing, ability, lambda _: shares, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    reporter = RecordingReporter()
    host = Host(Hosts(Store(tmp_path), reporter=reporter), Machine("m", "sharing", {}, shares=shares))
    ssh_shares.mount(host)
    (line,) = reporter.lines
    assert line.startswith(expected)
    host.record.shares = []
    ssh_shares.mount(host)
    assert len(reporter.lines) == 1


def test_shares_that_are_taken_over_may_be_missing(driver: Sharing) -> None:
    missing = share("/no/such")
    assert accepted(driver, ShareRequest(shares=(missing,), taken_over=True)) == [missing]


@pytest.mark.parametrize(
    ("is_late", "later"),
    [(False, "The first start after it is back shares it again."), (True, "It is mounted when it is back.")],
)
def test_a_start_warns_of_missing_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_late: bool, later: str
) -> None:
    install(monkeypatch)
    if is_late:
        monkeypatch.setattr(Sharing, "missing_shares", lambda _: [], raising=False)
    heard = RecordingReporter()
    shares = [share(tmp_path), share("/no/such", "/x", read_only=True)]
    warn_of_missing(Host(Hosts(Store(tmp_path), reporter=heard), Machine("m", "sharing", {}, shares=shares)))
    assert heard.lines == [f"/no/such:/x:ro is not shared: it does not exist. {later}"]


# -- records -----------------------------------------------------------------------------------------------------

ENTRY = {"Path": "/data", "GuestPath": "/srv", "ReadOnly": True}


def load(store: Store, value: Any) -> Machine:
    record = {"ConfigVersion": 3, "DriverName": "none", "Driver": {}, "Name": "m", "HostOptions": {}, "Shares": value}
    folder = store.machine_dir("m")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(record))
    return store.load("m")


def test_a_record_keeps_its_shares(tmp_path: Path) -> None:
    store = Store(tmp_path)
    machine = load(store, [ENTRY])
    assert machine.shares == [share("/data", "/srv", read_only=True)]
    machine.shares.append(share("/a b,c/ü"))
    store.save(machine)
    assert store.load("m").shares == machine.shares
    machine.shares = []
    store.save(machine)
    assert "Shares" not in json.loads((store.machine_dir("m") / "config.json").read_text())
    assert load(store, None).shares == []
    assert load(store, []).shares == []


# No field of an entry has such a value.
NO_VALUES: list[object] = [None, 1, [], {}, "x", ""]


@pytest.mark.parametrize(
    "value",
    [
        *("x", 1, True, {}, ENTRY, ["/data"], [None], [[]], [{}], [[ENTRY]]),
        *([{**ENTRY, key: value}] for key in ENTRY for value in NO_VALUES),
        *([{key: value for key, value in ENTRY.items() if key != left_out}] for left_out in ENTRY),
        [{**ENTRY, "More": 1}],
        [{**ENTRY, "ReadOnly": 1}],
        [{**ENTRY, "Path": "data"}],
        [{**ENTRY, "Path": "~/data"}],
        [{**ENTRY, "GuestPath": "/srv/../etc"}],
        [{**ENTRY, "GuestPath": ".."}],
        [{**ENTRY, "Path": "/data/../etc"}],
        *([{**ENTRY, key: f"/a{odd}b"}] for key in ("Path", "GuestPath") for odd in "\0\n\t\x1b\x7f\x9b"),
        [ENTRY, {**ENTRY, "Path": "data"}],
        [ENTRY] * (MOST + 1),
        [ENTRY] * 10_000,
    ],
)
def test_wrong_shares_in_a_record_are_an_error_that_names_them(tmp_path: Path, value: Any) -> None:
    with pytest.raises(RecordError, match="Shares"):
        load(Store(tmp_path), value)


def test_a_record_may_have_the_most_shares(tmp_path: Path) -> None:
    assert len(load(Store(tmp_path), [{**ENTRY, "GuestPath": f"/x/{number}"} for number in range(MOST)]).shares) == MOST
