"""The guest's script that reports listening sockets, with the real busybox."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pymachine.image

ROOT = Path(pymachine.image.__file__).parent / "rootfs" / "root"
SCRIPT = ROOT / "usr" / "lib" / "pymachine" / "containers"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENING, ESTABLISHED, UNCONNECTED = "0A", "01", "07"


def kernel_line(address: str, state: str, user: int) -> str:
    """Return a line of ``/proc/net/tcp`` or ``/proc/net/udp``."""
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {user:4}        0 12345 1\n"


def write_sockets(folder: Path, **sockets: list[tuple[str, str, int]]) -> None:
    """Write the kernel's files with sockets: by file, each with address, state and user."""
    for name in ("tcp", "tcp6", "udp", "udp6"):
        text = HEADER + "".join(kernel_line(*socket) for socket in sockets.get(name, []))
        (folder / name).write_text(text)


def functions(folder: Path) -> str:
    """Return the script's functions, which read the kernel's files and containerd's in `folder`."""
    (folder / "common").write_text(f"STATE={folder}\n")
    text = SCRIPT.read_text().partition("\n[ -e ")[0]
    places = {"/proc/net": "", "/usr/lib/pymachine/common": "common", "/run/containerd": "run", "/sys/class/net": "net"}
    for place, replacement in places.items():
        text = text.replace(place, str(folder / replacement))
    return text


def report(folder: Path, **sockets: list[tuple[str, str, int]]) -> str:
    """Return the script's report of sockets: by file, each with address, state and user."""
    write_sockets(folder, **sockets)
    (folder / "ticks").write_text("\n")
    script = f"{functions(folder)}\nPORT=/dev/stdout\nreport"
    done = subprocess.run(["busybox", "ash", "-c", script], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout


def dnsmasq_user() -> int:
    lines = (ROOT / "etc/passwd").read_text().splitlines()
    (user,) = (int(line.split(":")[2]) for line in lines if line.startswith("dnsmasq:"))
    return user


def test_listening_sockets_are_reported(tmp_path: Path) -> None:
    sockets = {
        "tcp": [("00000000:1F90", LISTENING, 0), ("0F02000A:0016", ESTABLISHED, 0)],
        "tcp6": [("0" * 32 + ":0050", LISTENING, 1000)],
        "udp": [("00000000:14E9", UNCONNECTED, 65534), ("0F02000A:8000", ESTABLISHED, 0)],
    }
    expected = f"listening tcp/00000000:1F90 tcp/{'0' * 32}:0050 udp/00000000:14E9\n"
    assert report(tmp_path, **sockets) == expected


def test_sockets_of_the_name_server_are_not_reported(tmp_path: Path) -> None:
    user = dnsmasq_user()
    sockets = {
        "tcp": [("3535FEA9:0036", LISTENING, user), ("00000000:1F90", LISTENING, 0)],
        "udp": [("00000000:C001", UNCONNECTED, user), ("00000000:14E9", UNCONNECTED, 0)],
        "udp6": [("0" * 32 + ":C002", UNCONNECTED, user)],
    }
    assert report(tmp_path, **sockets) == "listening tcp/00000000:1F90 udp/00000000:14E9\n"


def follow(folder: Path, *, slow: float) -> subprocess.Popen[bytes]:
    """Start the script's function, with one quick report and then one every `slow` seconds."""
    for name in ("links", "ticks", "port"):
        os.mkfifo(folder / name)
    script = f"""{functions(folder)}
    PORT={folder}/port SLOW={slow} QUICK=0.01 QUICK_REPORTS=1
    exec 5<> "$LINKS" 6<> "$TICKS"
    follow"""
    return subprocess.Popen(["busybox", "ash", "-c", script])


def test_reports_go_on_while_a_container_has_an_interface(tmp_path: Path) -> None:
    """A slow engine makes it long before the container's task, and removes it long after that."""
    write_sockets(tmp_path)
    interface = tmp_path / "net" / "veth1a2b3c4"
    interface.mkdir(parents=True)
    with follow(tmp_path, slow=0.01) as process, (tmp_path / "port").open() as reports:
        assert [reports.readline() for _ in range(20)] == ["listening\n"] * 20
        interface.rmdir()
        # Perhaps a few more, and then the end.
        assert set(reports) <= {"listening\n"}
        process.wait()


def test_ports_that_close_after_the_last_container_are_reported(tmp_path: Path) -> None:
    """A change that wakes the script in its last pause is followed by a report too."""
    write_sockets(tmp_path, tcp=[("00000000:1F90", LISTENING, 0)])
    with follow(tmp_path, slow=3) as process:
        with (tmp_path / "port").open() as reports, (tmp_path / "links").open("w") as links:
            # One quick report, and two slow ones. Without a change in the pause that follows, the script ends.
            assert [reports.readline() for _ in range(3)] == ["listening tcp/00000000:1F90\n"] * 3
            write_sockets(tmp_path)
            print("5: veth1@NONE: <BROADCAST>", file=links, flush=True)
            assert reports.readline() == "listening\n"
        process.terminate()
