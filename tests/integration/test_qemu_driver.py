"""The driver ``qemu`` with a real QEMU and tiny guests: mostly failures."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest, Driver, ImageFiles, MachineRef, State
from pymachine.driver.kit import crashes, identity_channel, listen_address
from pymachine.driver.testing import defaults, reference, reread
from pymachine.errors import DriverError, PrecreateError
from pymachine.system.stream_reporter import StreamReporter
from pymachine.system.wait import until
from pymachine_driver_qemu import (
    Driver as QemuDriver,
    accelerator,
    binary,
    boot,
    identity,
    process,
    qmp,
    runtime,
)
from pymachine_driver_qemu.base import PortTakenError
from support.crashing_qemu import crashing_qemu

pytestmark = pytest.mark.timeout(120)

# An archive without members.
NO_FILES = bytes(2 * tarfile.BLOCKSIZE)
# Machine code for 32-bit protected mode, in which a Multiboot kernel starts.
HANG = b"\xfa\xf4\xeb\xfc"  # cli; hlt; jmp back to hlt
# mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI's soft off on q35 with the setup of its BIOS.
SWITCH_OFF = b"\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef" + HANG


def multiboot(code: bytes) -> bytes:
    """Return the smallest kernel that QEMU boots: a Multiboot header with the load address, and `code`."""
    flags, load = 0x10000, 0x100000
    header = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
    entry = load + 32
    return header + struct.pack("<IIIII", load, load, 0, 0, entry) + code + bytes(64)


class Recorder(StreamReporter):
    """A reporter that keeps the lines."""

    def __init__(self) -> None:
        super().__init__(open(os.devnull, "w", encoding="utf-8"), terminal=False)  # noqa: SIM115, PTH123
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def image(tmp_path: Path) -> ImageFiles:
    return make_image(tmp_path, multiboot(HANG))


def make_image(folder: Path, kernel: bytes) -> ImageFiles:
    for name, content in (("iso", bytes(2048)), ("kernel", kernel), ("initrd", b"no ramdisk")):
        (folder / name).write_bytes(content)
    return ImageFiles("0" * 64, "amd64", folder / "iso", folder / "kernel", folder / "initrd")


def make(tmp_path: Path, name: str = "one", **changed: object) -> Driver:
    ref = reference(tmp_path, name)
    values = defaults(QemuDriver, **{"qemu_accelerator": "tcg", "qemu_arch": "amd64", **changed})
    return QemuDriver(ref, dict(QemuDriver.configure(ref, values, [])), reporter=Recorder())


@pytest.fixture
def running(tmp_path: Path, image: ImageFiles) -> Iterator[Driver]:
    """A running machine whose guest does nothing."""
    driver = make(tmp_path)
    launched(driver, image)
    yield driver
    driver.remove()


def launched(driver: Driver, image: ImageFiles) -> Path:
    """Start QEMU as `create` does, without waiting for the guest."""
    from pymachine_driver_qemu import disk

    assert isinstance(driver, QemuDriver)
    folder = driver.machine.directory
    disk.keep_image(image, folder)
    disk.make_data_disk(folder / disk.DISK, size_mb=1000)
    return boot.launch(
        driver._machine_spec(request()), driver.machine.name, driver._folder, listen=driver._listen_address
    ).sockets


def request(image: ImageFiles | None = None, *, timeout: float = 2.0) -> BootRequest:
    return BootRequest(identity=lambda endpoint: NO_FILES, image=image, timeout=timeout)


def pid_of(driver: Driver) -> int:
    folder = runtime.find(driver.machine.directory)
    assert folder is not None
    [pid] = process.find_pids(process.monitor_argument(folder / runtime.CONTROL))
    return pid


def nothing_runs(driver: Driver) -> bool:
    """Return whether no process except zombies has the machine's id among its arguments."""
    return not process.find_pids(driver.config["MachineID"])


# -- a guest that does not boot ----------------------------------------------------------------------------------


def test_a_guest_that_never_boots_fails_with_a_hint_to_the_console_log(tmp_path: Path, image: ImageFiles) -> None:
    driver = make(tmp_path)
    driver.precreate_check()
    with pytest.raises(identity_channel.GuestTimeoutError, match="did not come up within 2 seconds") as caught:
        driver.create(request(image))
    assert "console.log" in caught.value.hint
    assert driver.state() is State.STOPPED
    assert nothing_runs(driver)
    assert runtime.find(driver.machine.directory) is None


def test_an_invalid_kernel_fails_with_the_message_of_qemu(tmp_path: Path) -> None:
    driver = make(tmp_path)
    with pytest.raises(process.LaunchError, match="QEMU ended with exit code 1") as caught:
        driver.create(request(make_image(tmp_path, b"this is not a kernel" * 100)))
    assert "kernel" in caught.value.details
    assert "-uuid" not in caught.value.details
    assert driver.state() is State.STOPPED


def test_a_guest_that_switches_itself_off_is_an_error(tmp_path: Path) -> None:
    driver = make(tmp_path)
    with pytest.raises(identity_channel.GuestError, match="switched itself off"):
        driver.create(request(make_image(tmp_path, multiboot(SWITCH_OFF)), timeout=60))
    assert nothing_runs(driver)


@pytest.mark.parametrize(("module", "name"), [(process, "_answers"), (boot, "lengthen_queues"), (identity, "Channel")])
def test_a_guest_that_switches_itself_off_before_the_driver_connects_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    """On a busy host, QEMU may end before the driver takes each of these steps."""
    step = getattr(module, name)

    def delayed(*args: Any) -> Any:
        time.sleep(2)
        return step(*args)

    monkeypatch.setattr(module, name, delayed)
    driver = make(tmp_path)
    with pytest.raises(identity_channel.GuestError, match=r"switched itself off while it booted \(last stage: none\)"):
        driver.create(request(make_image(tmp_path, multiboot(SWITCH_OFF)), timeout=60))
    assert nothing_runs(driver)


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["at its start", "while it boots"])
@pytest.mark.parametrize(("by", "tries"), [("SEGV", 2), ("ABRT", 2), ("KILL", 1)])
def test_a_crashed_qemu_is_started_once_more(
    tmp_path: Path, image: ImageFiles, by: str, tries: int, seconds: float
) -> None:
    starts = tmp_path / "starts"
    driver = make(tmp_path, qemu_binary=str(crashing_qemu(tmp_path, f"echo start >> {starts}", by=by, seconds=seconds)))
    error = crashes.CrashedError if tries > 1 else identity_channel.GuestError
    with pytest.raises(error, match=f"QEMU crashed .SIG{by}." if tries > 1 else "QEMU was ended by SIGKILL"):
        driver.create(request(image, timeout=60))
    assert starts.read_text().splitlines() == ["start"] * tries
    assert isinstance(driver.reporter, Recorder)
    assert [line for line in driver.reporter.lines if "crashed" in line] == [
        f"QEMU crashed (SIG{by}): booting again."
    ] * (tries - 1)
    assert nothing_runs(driver)
    assert runtime.find(driver.machine.directory) is None


def test_an_interrupted_identity_leaves_nothing_running(tmp_path: Path, image: ImageFiles) -> None:
    driver = make(tmp_path)

    def broken(endpoint: object) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driver.create(BootRequest(identity=broken, image=image))
    assert nothing_runs(driver)


# -- a running machine -------------------------------------------------------------------------------------------


def test_another_process_sees_running_paused_and_stopped(running: Driver) -> None:
    assert reread(running).state() is State.RUNNING
    folder = runtime.find(running.machine.directory)
    assert folder is not None
    with qmp.Qmp(folder / runtime.CONTROL) as monitor:
        monitor.execute("stop")
    assert reread(running).state() is State.PAUSED
    running.kill()
    assert reread(running).state() is State.STOPPED
    running.kill()


def test_many_threads_can_read_the_state_at_once(running: Driver) -> None:
    states: list[State] = []
    threads = [threading.Thread(target=lambda: states.append(reread(running).state())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == [State.RUNNING] * 20


def test_a_guest_that_ignores_the_power_button_is_switched_off_with_a_message(running: Driver) -> None:
    running.stop(1.0)
    assert running.state() is State.STOPPED
    assert isinstance(running.reporter, Recorder)
    assert running.reporter.lines == ["The guest did not shut down within 1 seconds. Switching the machine off."]


def test_a_killed_qemu_counts_as_stopped_even_as_a_zombie(running: Driver) -> None:
    os.kill(pid_of(running), signal.SIGKILL)
    until(lambda: running.state() is State.STOPPED, deadline=5.0, what="the end")
    folder = runtime.find(running.machine.directory)
    assert folder is not None
    assert (folder / runtime.CONTROL).exists(), "the socket is stale"
    running.remove()
    running.remove()
    assert not folder.exists()


def test_a_hanging_qemu_fails_state_but_can_be_removed(running: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp.Qmp.__init__, "__kwdefaults__", {"timeout": 0.5})
    os.kill(pid_of(running), signal.SIGSTOP)
    with pytest.raises(DriverError, match="did not answer"):
        running.state()
    running.remove()
    assert running.state() is State.STOPPED
    assert nothing_runs(running)


def test_a_second_start_is_refused_and_the_machine_keeps_running(running: Driver) -> None:
    with pytest.raises(DriverError, match="already has a QEMU process"):
        reread(running).start(request())
    assert running.state() is State.RUNNING


def test_qemu_survives_the_process_and_terminal_that_started_it(running: Driver) -> None:
    pid = pid_of(running)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


def test_sockets_and_logs_are_not_readable_by_other_users(running: Driver) -> None:
    folder = runtime.find(running.machine.directory)
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (process.QEMU_LOG, process.CONSOLE_LOG):
        assert stat.S_IMODE((running.machine.directory / name).stat().st_mode) == 0o600


def test_qemu_is_sandboxed_if_it_supports_that(running: Driver) -> None:
    status = Path(f"/proc/{pid_of(running)}/status").read_text()
    if binary.find("amd64").sandbox:
        assert "Seccomp:\t2" in status


def test_port_forwardings_are_added_and_removed(running: Driver) -> None:
    from pymachine.driver.kit.forwarded_ports import Forwards
    from pymachine.driver.kit.user_network import Published, UserNetwork
    from pymachine_driver_qemu.command_line import NETDEV

    output: list[str] = []
    listen = running.endpoint().address
    folder = runtime.find(running.machine.directory)
    assert folder is not None
    with (
        qmp.Qmp(folder / runtime.PORTS) as monitor,
        socket.create_server((listen, 23457)),
    ):
        forwards = Forwards(UserNetwork(monitor=monitor.human, netdev=NETDEV, address=listen), say=output.append)
        forwards.follow({Published("tcp", 23456), Published("tcp", 23457), Published("udp", 23458)})
        assert not listen_address.is_free(listen, 23456)
        forwards.follow(set())
        assert listen_address.is_free(listen, 23456)
    assert [line for line in output if line.startswith(f"cannot forward {listen}:23457/tcp")]
    assert [line for line in output if line.startswith(f"forwarding {listen}:23458/udp")]


def test_the_port_forwarder_follows_reports_and_ends_with_its_machine(running: Driver) -> None:
    """This test plays the guest; QEMU is real."""
    from pymachine.driver.kit import forwarded_ports
    from pymachine_driver_qemu import background

    folder, endpoint = running.machine.directory, running.endpoint()
    listen = listen_address.ListenAddress(endpoint.address, endpoint.docker_port, endpoint.ssh_port)
    guest, reports = socket.socketpair()

    def problems() -> dict[int, str]:
        return {port.port: port.problem for port in forwarded_ports.load(folder)}

    def report(*ports: int) -> None:
        sockets = "".join(f" tcp/00000000:{port:04X}" for port in ports)
        guest.sendall(f"listening{sockets}\n".encode())

    with guest, socket.create_server((listen.address, 23461)) as other:
        with reports:
            background.follow_ports(folder, listen, ipv6=False, reports=reports)
        # The shell takes the first line.
        report()
        report(23460, 23461, listen.ssh_port)
        until(lambda: len(problems()) == 3, deadline=30.0, what="the forwarder")
        assert not listen_address.is_free(listen.address, 23460)
        assert problems()[23460] == ""
        assert "in use by another program" in problems()[23461]
        assert "SSH" in problems()[listen.ssh_port]
        other.close()
        until(lambda: problems()[23461] == "", deadline=30.0, what="the port that became free")
        assert not listen_address.is_free(listen.address, 23461)

        [forwarder] = [
            pid
            for pid in process.find_pids(str(folder))
            if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sh")
        ]
        os.kill(forwarder, signal.SIGKILL)
        report(23460)
        report(23460, 23462)
        until(lambda: not listen_address.is_free(listen.address, 23462), deadline=60.0, what="another forwarder")
        assert listen_address.is_free(listen.address, 23461)
        assert not listen_address.is_free(listen.address, 23460)

        log = folder / background.PORTS.log
        running.kill()
        until(lambda: "the machine has ended" in process.tail(log), deadline=30.0, what="its end")
        assert problems() == {}


# -- failures ----------------------------------------------------------------------------------------------------


def test_a_taken_port_is_reported_before_anything_is_created(tmp_path: Path, image: ImageFiles) -> None:
    driver = make(tmp_path)
    endpoint = driver.endpoint()
    with (
        socket.create_server((endpoint.address, endpoint.docker_port)),
        pytest.raises(PortTakenError, match=f"{endpoint.address}:{endpoint.docker_port} is in use") as caught,
    ):
        driver.precreate_check()
    assert "ss -ltnp" in caught.value.hint


def test_a_missing_qemu_is_reported(tmp_path: Path) -> None:
    driver = make(tmp_path, qemu_binary="no-such-qemu")
    with pytest.raises(PrecreateError, match="QEMU not found: no-such-qemu"):
        driver.precreate_check()


def test_start_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"boot2docker\.iso is missing"):
        make(tmp_path).start(request())


def test_remove_cleans_up_after_a_killed_create(tmp_path: Path, image: ImageFiles) -> None:
    driver = make(tmp_path)
    launched(driver, image)
    # Another process has only the record on the disk and the machine's folder.
    other = QemuDriver(
        MachineRef(driver.machine.name, driver.machine.directory, tmp_path, tmp_path / "k"),
        json.loads(json.dumps(driver.config)),
    )
    other.remove()
    assert nothing_runs(driver)


def test_qemu_does_not_start_if_its_socket_folder_was_removed(tmp_path: Path, image: ImageFiles) -> None:
    """`rm` right after a killed `create` may remove the folder before QEMU has bound its sockets."""
    driver = make(tmp_path)
    assert isinstance(driver, QemuDriver)
    folder = runtime.make(driver.machine.directory, driver.config["MachineID"])
    driver.remove()
    argv = [str(binary.find("amd64").path), "-machine", "none", "-nodefaults", "-display", "none"]
    ended = subprocess.run(
        [*argv, "-qmp", f"unix:{folder / runtime.CONTROL},server=on,wait=off"],
        check=False,
        capture_output=True,
        timeout=20,
    )
    assert ended.returncode != 0


# -- accelerators ------------------------------------------------------------------------------------------------


def test_an_accelerator_that_does_not_boot_is_tried_only_once(
    tmp_path: Path, image: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of this image boots under no accelerator, so the result is the same on every host."""
    runtime_dir = tmp_path / "r"
    runtime_dir.mkdir(mode=0o700)
    monkeypatch.setattr(runtime, "_LONGEST_PATH", 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.setattr(accelerator, "TRIAL_SECONDS", 1.0)
    trial = accelerator.Trial(
        qemu=binary.find("amd64"), architecture="amd64", kernel=image.kernel, initrd=image.initrd, image=image.digest
    )
    if accelerator.unavailable("kvm", "amd64"):
        pytest.skip("no accelerator to try")
    recorder = Recorder()
    assert accelerator.choose("auto", trial, reporter=recorder) == "tcg"
    assert "kvm is available, but does not boot Linux on this host" in recorder.lines[0]
    monkeypatch.setattr(accelerator, "boots", None)
    assert accelerator.choose("auto", trial, reporter=recorder) == "tcg"
    with pytest.raises(accelerator.AcceleratorError, match="accelerator kvm does not work:"):
        accelerator.choose("kvm", trial, reporter=recorder)


def test_a_failed_trial_leaves_nothing(tmp_path: Path, image: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = accelerator.Trial(
        qemu=binary.find("amd64"), architecture="amd64", kernel=image.kernel, initrd=image.initrd, image="x"
    )
    # A private folder, since other tests run trials at the same time; short, since it contains sockets.
    with tempfile.TemporaryDirectory(prefix="pm-") as own:
        monkeypatch.setenv("XDG_RUNTIME_DIR", own)
        assert not accelerator.boots("tcg", trial, seconds=1.0)
        assert runtime.base().parent == Path(own)
        assert not list(runtime.base().glob("trial-*"))
