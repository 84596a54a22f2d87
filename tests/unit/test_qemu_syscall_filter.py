"""The filter of QEMU's system calls: each call in real child processes, and QEMU's 9p server with it.

Everything runs as an ordinary user and, if the tests run as root, as root.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pymachine_driver_qemu import process, qmp, runtime, syscall_filter
from support import ninep
from support.unprivileged import USERS, run_as_user

pytestmark = pytest.mark.skipif(not syscall_filter.available(), reason="the filter is for Linux on x86-64 and ARM64")
only_on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has calls with other numbers")

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = syscall_filter._ARCHITECTURES[platform.machine()].numbers if syscall_filter.available() else {}
AT_FDCWD = -100
ANOTHER = 1234
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
SET_IDS = (0o4755, 0o2755, 0o6755)


def call(name: str, *arguments: int | bytes) -> int:
    """Make a system call; return its result, or the negative error number."""
    words = [value if isinstance(value, bytes) else ctypes.c_long(value) for value in arguments]
    result = int(LIBC.syscall(ctypes.c_long(NUMBERS.get(name, -1)), *words))
    return -ctypes.get_errno() if result == -1 else result


def filtered(user: int, work: Callable[[], None]) -> None:
    """Run `work` in a child process of `user` with the filter."""
    install = syscall_filter.installer()

    def run() -> None:
        os.umask(0)
        assert install() == 0
        work()

    run_as_user(user, run)


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> int:
    """The user to run as."""
    return int(request.param)


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    """An empty folder of `user`: pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        os.chown(made, user, user)
        yield Path(made)


@pytest.fixture
def file(user: int, folder: Path) -> Path:
    """A file of `user`, with mode 0644."""
    path = folder / "file"
    path.write_text("content")
    path.chmod(0o644)
    os.chown(path, user, user)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- owners ------------------------------------------------------------------------------------------------------


def chown(name: str, path: Path) -> int:
    text = bytes(path)
    if name == "fchownat":
        return call(name, AT_FDCWD, text, ANOTHER, ANOTHER, 0)
    if name != "fchown":
        return call(name, text, ANOTHER, ANOTHER)
    with path.open() as opened:
        return call(name, opened.fileno(), ANOTHER, ANOTHER)


@pytest.mark.parametrize("name", [name for name in ("chown", "fchown", "lchown", "fchownat") if name in NUMBERS])
def test_a_change_of_owner_succeeds_and_has_no_effect(name: str, user: int, file: Path) -> None:
    def without_effect() -> None:
        assert chown(name, file) == 0

    filtered(user, without_effect)
    assert (file.stat().st_uid, file.stat().st_gid) == (user, user)

    def with_effect() -> None:
        assert chown(name, file) == (0 if user == 0 else -errno.EPERM)

    run_as_user(user, with_effect)
    assert file.stat().st_uid == (ANOTHER if user == 0 else user)


# -- modes -------------------------------------------------------------------------------------------------------


def chmod(name: str, path: Path, bits: int) -> int:
    if name in ("fchmodat", "fchmodat2"):
        return call(name, AT_FDCWD, bytes(path), bits, 0)
    if name == "chmod":
        return call(name, bytes(path), bits)
    with path.open() as opened:
        return call(name, opened.fileno(), bits)


@pytest.mark.parametrize("name", [name for name in ("chmod", "fchmod", "fchmodat", "fchmodat2") if name in NUMBERS])
def test_only_modes_without_set_id_bits_are_set(name: str, user: int, file: Path) -> None:
    def work() -> None:
        for bits in SET_IDS:
            assert chmod(name, file, bits) == 0
            assert mode(file) == 0o644
        # Kernels before 6.6 have no fchmodat2.
        is_known = chmod(name, file, 0o1700) != -errno.ENOSYS
        assert is_known or name == "fchmodat2"
        assert mode(file) == (0o1700 if is_known else 0o644)

    filtered(user, work)

    def unfiltered() -> None:
        assert chmod(name, file, 0o4755) in (0, -errno.ENOSYS)

    run_as_user(user, unfiltered)
    assert mode(file) == 0o4755 or name == "fchmodat2"


def test_a_folder_in_a_setgid_folder_inherits_the_bit_and_keeps_its_mode(user: int, folder: Path) -> None:
    """QEMU sets the mode again after mkdir, and removes the folder if that fails."""
    folder.chmod(0o2775)

    def work() -> None:
        os.mkdir(folder / "made", 0o2775)  # noqa: PTH102 (the call that QEMU makes)
        os.chmod(folder / "made", 0o2775)  # noqa: PTH101
        os.mkdir(folder / "made/inner", 0o755)  # noqa: PTH102
        os.chmod(folder / "made/inner", 0o2755)  # noqa: PTH101

    filtered(user, work)
    assert (mode(folder / "made"), mode(folder / "made/inner")) == (0o2775, 0o2755)


def test_a_new_folder_gets_no_set_id_bits(user: int, folder: Path) -> None:
    filtered(user, lambda: os.mkdir(folder / "made", 0o6755))  # noqa: PTH102
    assert mode(folder / "made") == 0o755


# -- new files ---------------------------------------------------------------------------------------------------


def create(name: str, path: Path, bits: int, *, flags: int = os.O_CREAT | os.O_WRONLY) -> int:
    if name == "creat":
        return call(name, bytes(path), bits)
    where = (AT_FDCWD,) if name == "openat" else ()
    return call(name, *where, bytes(path), flags, bits)


@pytest.mark.parametrize("name", [name for name in ("creat", "open", "openat") if name in NUMBERS])
def test_no_file_is_created_with_set_id_bits(name: str, user: int, folder: Path) -> None:
    def work() -> None:
        for bits in SET_IDS:
            assert create(name, folder / "new", bits) == -errno.EPERM
            assert create(name, folder, bits, flags=os.O_TMPFILE | os.O_WRONLY) == -errno.EPERM
        assert os.listdir(folder) == []  # noqa: PTH208
        assert create(name, folder / "new", 0o644) > 0
        assert create(name, folder / "new", 0o1600) > 0

    filtered(user, work)
    assert mode(folder / "new") == 0o644


@pytest.mark.parametrize("name", [name for name in ("open", "openat") if name in NUMBERS])
def test_a_mode_is_not_looked_at_where_no_file_is_created(name: str, user: int, file: Path) -> None:
    def work() -> None:
        assert create(name, file, 0o177777, flags=os.O_RDWR | os.O_TRUNC) > 0

    filtered(user, work)
    assert (mode(file), file.read_text()) == (0o644, "")


@pytest.mark.parametrize("name", [name for name in ("mknod", "mknodat") if name in NUMBERS])
def test_fifos_sockets_and_files_are_created_but_no_devices(name: str, user: int, folder: Path) -> None:
    where = (AT_FDCWD,) if name == "mknodat" else ()

    def made(kind: int, bits: int = 0o644) -> int:
        return call(name, *where, bytes(folder / f"{kind:o}"), kind | bits, os.makedev(1, 3))

    def work() -> None:
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert made(kind) == -errno.EPERM
        for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG):
            for bits in SET_IDS:
                assert made(kind, bits) == -errno.EPERM
            assert made(kind) == 0

    filtered(user, work)
    assert {path.lstat().st_mode for path in folder.iterdir()} == {
        kind | 0o644 for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG)
    }


def test_other_work_on_files_is_as_without_the_filter(user: int, folder: Path) -> None:
    def work() -> None:
        one = folder / "one"
        one.write_text("content")
        one.chmod(0o755)
        (folder / "hard").hardlink_to(one)
        (folder / "soft").symlink_to("one")
        (folder / "other").touch()
        with (folder / "other").open("a") as kept:
            one.replace(folder / "other")
            kept.write("gone")
        os.truncate(folder / "other", 4)
        os.utime(folder / "other", (1, 2))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "socket"))
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er").rmdir()

    filtered(user, work)
    assert sorted(os.listdir(folder)) == ["deep", "hard", "other", "socket", "soft"]  # noqa: PTH208
    assert (folder / "hard").read_text() == "cont"
    assert (folder / "hard").stat().st_nlink == 2
    assert (folder / "hard").stat().st_mtime == 2
    assert mode(folder / "hard") == 0o755
    assert (folder / "soft").readlink() == Path("one")


# -- ways around the filter --------------------------------------------------------------------------------------


def test_calls_that_would_pass_the_filter_are_not_implemented(user: int) -> None:
    def work() -> None:
        assert call("openat2", AT_FDCWD, b"/", 0, 24) == -errno.ENOSYS
        assert call("io_uring_setup", 1, 0) == -errno.ENOSYS

    filtered(user, work)


@only_on_x86
def test_calls_by_x32_numbers_are_not_implemented(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NUMBERS, "x32 chmod", 0x40000000 | 90)
    monkeypatch.setitem(NUMBERS, "x32 getpid", 0x40000000 | 39)

    def work() -> None:
        assert call("x32 chmod", b"/", 0o755) == -errno.ENOSYS
        assert call("x32 getpid") == -errno.ENOSYS

    filtered(user, work)


def end_of_32_bit_call(user: int, *, install: Callable[[], int]) -> int:
    """Return the exit code of a process that makes a 32-bit call and ends with 0."""
    child = os.fork()
    if child == 0:
        # mov eax, 20 (getpid); int 0x80; ret
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        if user != os.getuid():
            os.setuid(user)
        os._exit(0 if install() == 0 and getpid() == os.getpid() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@only_on_x86
def test_a_32_bit_call_ends_the_process(user: int) -> None:
    unfiltered = end_of_32_bit_call(user, install=lambda: 0)
    # Some kernels have no 32-bit calls, and raise SIGSEGV.
    assert unfiltered in (0, -signal.SIGSEGV)
    expected = -signal.SIGSYS if unfiltered == 0 else unfiltered
    assert end_of_32_bit_call(user, install=syscall_filter.installer()) == expected


def test_programs_that_a_filtered_process_becomes_are_filtered(user: int, file: Path) -> None:
    def work() -> None:
        os.execlp("chmod", "chmod", "4755", str(file))

    filtered(user, work)
    assert mode(file) == 0o644


# -- the program, also for the other architecture ----------------------------------------------------------------


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """Run the filter for `machine` as the kernel would, and return its verdict."""
    architecture = syscall_filter._ARCHITECTURES[machine]
    program = syscall_filter._program(architecture)
    data = {0: number, 4: architecture.audit if audit is None else audit}
    data |= {16 + 8 * index: value for index, value in enumerate((*arguments, *[0] * (6 - len(arguments))))}
    word = position = 0
    while True:
        code, skip_true, skip_false, operand = program[position]
        position += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            word = data[operand]
        elif code == 0x54:
            word &= operand
        else:
            succeeds = {0x15: word == operand, 0x35: word >= operand, 0x45: bool(word & operand)}[code]
            position += skip_true if succeeds else skip_false


EPERM, ENOSYS, SUCCESS, ALLOWED, KILLED = 0x50001, 0x50026, 0x50000, 0x7FFF0000, 0x80000000


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("fchownat", (3, 0, 1, 1, 0), SUCCESS),
        ("fchown", (3, 1, 1), SUCCESS),
        ("fchmod", (3, 0o104755), SUCCESS),
        ("fchmod", (3, 0o100755), ALLOWED),
        ("fchmodat", (3, 0, 0o2700), SUCCESS),
        ("fchmodat2", (3, 0, 0o4000, 0), SUCCESS),
        ("fchmodat2", (0o6000, 0, 0o1777, 0o6000), ALLOWED),
        ("mknodat", (3, 0, 0o020600, 0), EPERM),
        ("mknodat", (3, 0, 0o060600, 0), EPERM),
        ("mknodat", (3, 0, 0o012644, 0), EPERM),
        ("mknodat", (3, 0, 0o010644, 0), ALLOWED),
        ("mknodat", (3, 0, 0o140755, 0), ALLOWED),
        ("mknodat", (3, 0, 0o755, 0), ALLOWED),
        ("openat", (3, 0, os.O_CREAT | os.O_EXCL, 0o4755), EPERM),
        ("openat", (3, 0, 0o20000000, 0o2755), EPERM),
        ("openat", (3, 0, os.O_CREAT, 0o1755), ALLOWED),
        ("openat", (3, 0, os.O_RDWR, 0o6755), ALLOWED),
        ("openat2", (3, 0, 0, 24), ENOSYS),
        ("io_uring_setup", (8, 0), ENOSYS),
    ],
)
def test_both_architectures_have_the_same_verdicts(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    number = syscall_filter._ARCHITECTURES[machine].numbers[name]
    assert verdict(machine, number, *arguments) == expected
    assert verdict(machine, number | 0x40000000, *arguments) == ENOSYS
    assert verdict(machine, number, *arguments, audit=0x40000003) == KILLED
    # getdents64, as an example of a call without a rule.
    assert verdict(machine, {"x86_64": 217, "aarch64": 61}[machine], 0o6000, 0o6000, 0o6000) == ALLOWED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_numbers_of_calls_are_those_of_libseccomp(machine: str) -> None:
    """Libseccomp is the library of QEMU's own sandbox."""
    library = ctypes.CDLL("libseccomp.so.2")
    architecture = syscall_filter._ARCHITECTURES[machine]
    found = {
        name: library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(architecture.audit), name.encode())
        for rule in syscall_filter._RULES
        for name in rule.calls.split()
    }
    # Pseudo numbers of calls that the architecture does not have, and -1 for a call that the library does not know.
    known = {name: number for name, number in found.items() if number >= 0}
    assert found["fchmodat2"] in (-1, 452)
    assert {"fchmodat2": 452, **known} == architecture.numbers


# -- QEMU --------------------------------------------------------------------------------------------------------


@contextmanager
def stopped_qemu(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        process.end(folder)


def launch(folder: Path, *arguments: str, is_filtered: bool) -> str:
    """Start QEMU as a machine's is started, end it, and return its status as the kernel has it."""
    argv = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "none", *arguments]
    argv += ["-qmp", process.monitor_argument(folder / runtime.CONTROL)]
    with stopped_qemu(folder):
        process.launch(argv, directory=folder, sockets=folder, environment={}, filtered=is_filtered)
        with qmp.Qmp(folder / runtime.CONTROL) as monitor:
            return Path(f"/proc/{monitor.pid()}/status").read_text()


def filters(status: str) -> int:
    return int(status.split("Seccomp_filters:")[1].split(maxsplit=1)[0])


def test_qemu_runs_with_the_filter_and_with_its_own_sandbox(user: int, folder: Path) -> None:
    def work() -> None:
        before = filters(Path("/proc/self/status").read_text())
        assert filters(launch(folder, is_filtered=False)) == before
        assert filters(launch(folder, is_filtered=True)) == before + 1
        assert filters(launch(folder, *SANDBOX, is_filtered=True)) > before + 1

    run_as_user(user, work)


def test_qemu_starts_without_the_filter_where_the_kernel_refuses_it(
    user: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = {"x86_64": 157, "aarch64": 167}[platform.machine()]
    refuse = syscall_filter._Rule("prctl", EPERM, ((syscall_filter._Test(0, 0xFFFFFFFF, 22),),))
    with monkeypatch.context() as patched:
        patched.setattr(syscall_filter, "_RULES", (refuse,))
        patched.setitem(NUMBERS, "prctl", number)
        refuse_filters = syscall_filter.installer()

    def work() -> None:
        assert refuse_filters() == 0
        before = filters(Path("/proc/self/status").read_text())
        assert filters(launch(folder, is_filtered=True)) == before
        with pytest.raises(syscall_filter.FilterError, match="refuses .*not permitted") as caught:
            syscall_filter.probe()
        assert "PR_SET_SECCOMP" in caught.value.fix

    run_as_user(user, work)


def test_the_probe_succeeds_where_filters_are_allowed(user: int) -> None:
    run_as_user(user, syscall_filter.probe)


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("darwin", "arm64"), ("win32", "AMD64")])
def test_other_systems_and_machines_have_no_filter(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    assert not syscall_filter.available()
    with pytest.raises(syscall_filter.FilterError, match=f"{system} on {machine}"):
        syscall_filter.probe()


def test_qemu_starts_without_a_filter_on_other_machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    before = filters(Path("/proc/self/status").read_text())
    assert filters(launch(folder, is_filtered=True)) == before


# -- QEMU's 9p server --------------------------------------------------------------------------------------------


def serve(folder: Path, work: Callable[[ninep.Client], None], *, is_filtered: bool) -> None:
    """Share the folder ``shared`` by a QEMU with its own sandbox, and do `work` as its guest."""
    argv = ["qemu-system-x86_64", *ninep.arguments(folder / "qtest", folder / "shared"), *SANDBOX]
    argv += ["-qmp", process.monitor_argument(folder / runtime.CONTROL)]
    with stopped_qemu(folder):
        process.launch(argv, directory=folder, sockets=folder, environment={}, filtered=is_filtered)
        with closing(ninep.Client(folder / "qtest")) as client:
            work(client)


@pytest.fixture
def shared(user: int, folder: Path) -> Path:
    """A shared folder with a setgid folder, and a program that is setuid."""
    path = folder / "shared"
    for each in (path, path / "team"):
        each.mkdir()
        os.chown(each, user, user)
    (path / "program").write_text("of the host")
    os.chown(path / "program", user, user)
    (path / "program").chmod(0o4755)
    (path / "team").chmod(0o2775)
    return path


def test_a_hostile_guest_gains_nothing_by_owners_modes_and_devices(user: int, folder: Path, shared: Path) -> None:
    def guest(client: ninep.Client) -> None:
        client.create("file", 0o644)
        client.chown("file", ANOTHER, ANOTHER)
        client.chmod("file", 0o104755)
        for bits in SET_IDS:
            with pytest.raises(PermissionError):
                client.create("setuid", bits)
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            with pytest.raises(PermissionError):
                client.mknod("device", kind | 0o666, major=1, minor=3)
        client.write("program", b"of the guest")

    run_as_user(user, lambda: serve(folder, guest, is_filtered=True))
    assert sorted(os.listdir(shared)) == ["file", "program", "team"]  # noqa: PTH208
    assert (mode(shared / "file"), (shared / "file").stat().st_uid) == (0o644, user)
    assert (mode(shared / "program"), (shared / "program").read_text()) == (0o755, "of the guest")


def test_a_guest_creates_folders_in_a_setgid_folder(user: int, folder: Path, shared: Path) -> None:
    """Linux's client adds the folder's bit to the mode of a new folder."""

    def guest(client: ninep.Client) -> None:
        client.mkdir("team/project", 0o2775)
        client.mkdir("team/project/private", 0o2700)
        client.mkdir("plain", 0o755)
        client.chmod("plain", 0o40711)

    run_as_user(user, lambda: serve(folder, guest, is_filtered=True))
    found = [mode(shared / name) for name in ("team/project", "team/project/private", "plain")]
    assert found == [0o2775, 0o2700, 0o711]
    assert mode(folder / process.CONSOLE_LOG) == 0o600


def test_without_the_filter_a_guest_makes_files_setuid(user: int, folder: Path, shared: Path) -> None:
    """This is what the filter is for. It also shows that the requests above are what QEMU executes."""

    def guest(client: ninep.Client) -> None:
        client.create("setuid", 0o4755)
        client.create("file", 0o644)
        client.chmod("file", 0o104755)
        try:
            client.chown("file", ANOTHER, ANOTHER)
        except PermissionError:
            assert user != 0

    run_as_user(user, lambda: serve(folder, guest, is_filtered=False))
    assert mode(shared / "setuid") == 0o4755
    assert (shared / "file").stat().st_uid == (ANOTHER if user == 0 else user)
