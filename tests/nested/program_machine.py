"""Run in the nested computer: the installed program, from create to rm, with a machine that runs pymachine's image."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import folder_checks
from folder_checks import check, log

STORE = Path("/store")
IMAGE = "/payload/boot2docker.iso"
PROGRAM = [sys.executable, "-m", "pymachine", "--storage-path", str(STORE)]
VBOXMANAGE = "/usr/lib/virtualbox/VBoxManage"
# On a busy host a boot takes longer than the default of 300 s.
ENVIRONMENT = os.environ | {"PYMACHINE_BOOT_TIMEOUT": "1800", "PYMACHINE_VBOXMANAGE_TIMEOUT": "600"}
# The exit code of ssh.
CONNECTION_FAILED = 255
CONSOLE = STORE / "machines" / "m1" / "console.log"


def pymachine(*words: str) -> str:
    """Run the program, log its output, and expect success."""
    output, code = run(*words)
    assert code == 0, words
    return output


def ssh(command: str) -> str:
    """Run a command in the guest. The emulated guest may need longer to accept a login than ssh waits."""
    for _ in range(5):
        output, code = run("ssh", "m1", command)
        if code != CONNECTION_FAILED:
            break
    assert code == 0, command
    return output


def run(*words: str) -> tuple[str, int]:
    """Run the program, log its output, and return it with the exit code."""
    log(f"$ pymachine {' '.join(words)}")
    with subprocess.Popen(
        [*PROGRAM, *words],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        messages = threading.Thread(target=log_lines, args=(process.stderr,))
        messages.start()
        output = log_lines(process.stdout)
        messages.join()
    log(f"exit {process.returncode}")
    return output, process.returncode


def log_lines(stream: IO[str]) -> str:
    """Log each line at once, since this computer may stall. Return all of them."""
    lines = []
    for line in stream:
        lines.append(line)
        log(line.rstrip())
    return "".join(lines)


def vboxmanage(*words: str) -> None:
    subprocess.run([VBOXMANAGE, *words], check=True, capture_output=True)


def watch_console() -> None:
    """Log the guest's console every 30 seconds, since it is lost if this computer stalls."""
    seen = 0
    while True:
        time.sleep(30)
        if CONSOLE.exists():
            text = CONSOLE.read_bytes()
            log(f"console: {text[seen:][-400:].decode(errors='replace')}")
            seen = len(text)


def check_names(address: str) -> None:
    """Check that a second machine and m1, with this address, know each other's names until the second is removed."""
    log("the names of two machines")
    small = ["--virtualbox-memory", "512", "--virtualbox-boot2docker-url", IMAGE, "--no-share"]
    pymachine("create", "--driver", "virtualbox", *small, "m2")
    other = pymachine("ip", "m2").strip()
    # nslookup fails, since this computer has no network in which it could look for an IPv6 address.
    answers = "nslookup m2 || true; docker run --rm box:1 nslookup m2 || true"
    check("name of m2 in guest and container", ssh(answers).splitlines().count(f"Address: {other}"), 2)
    check("SSH of m2 by its name", ssh("nc -w 60 m2 22 < /dev/null | head -c 4 || true"), "SSH-")
    check("names in m2", run("ssh", "m2", "cat /run/resolver/machines"), (f"{address} m1\n{other} m2\n", 0))
    pymachine("rm", "-f", "m2")
    check("names in m1 after rm of m2", ssh("cat /run/resolver/machines"), f"{address} m1\n")


def main() -> None:
    home, data, other = Path.home(), Path("/srv/data"), Path("/srv/other folder")
    Path("/home/hello").write_text("from the host\n")
    (home / "hello").write_text("from the home\n")
    for folder in (data, other):
        (folder / "folder").mkdir(parents=True)
        (folder / "hello").write_text(f"read only in {folder.name}\n")
    threading.Thread(target=watch_console, daemon=True).start()
    words = ["--virtualbox-boot2docker-url", IMAGE, "--virtualbox-share-folder", "/home:hosthome"]
    pymachine("create", "--driver", "virtualbox", *words, "--share", str(home), "--share", f"{data}:ro", "m1")
    assert pymachine("status", "m1") == "Running\n"
    address = pymachine("ip", "m1").strip()
    assert address.startswith("192.168.56.")
    assert "virtualbox" in pymachine("ls")
    assert pymachine("version", "m1").strip()
    pymachine("config", "m1")
    log("shared folders, in the guest")
    before = folder_checks.statuses(data)
    (home / "in-guest").write_text(folder_checks.read_only_script(data))
    script = "hostname; ip -4 -o address; grep vboxsf /proc/mounts; cat /hosthome/hello"
    output = ssh(f"{script}; cat {home}/hello; echo made > {home}/made; sudo sh {home}/in-guest || echo failed")
    assert "m1" in output.splitlines()
    assert f"inet {address}/24" in output
    for text in ("from the host", "from the home"):
        check(text, text in output.splitlines(), expected=True)
    check("read-only folder read", output.splitlines().count("read only in data"), 2)
    check("read-only folder changed", [line for line in output.splitlines() if line.startswith("changed by")], [])
    check("owner set in a read-only folder", "owner set through the hidden mount" in output.splitlines(), expected=True)
    check("read-only folder on the host", folder_checks.statuses(data) == before, expected=True)
    check("made by the guest's user", ((home / "made").read_text(), (home / "made").stat().st_uid), ("made\n", 0))
    log("shared folders, in a container")
    work = home / "work"
    folder_checks.prepare(work)
    folder_checks.in_container(work, lambda: ssh(folder_checks.command(work)))
    folder_checks.watch(home / "watched", lambda command: ssh(f"{command} || echo failed"))
    log((STORE / "machines" / "m1" / "shares.log").read_text())
    log("paused by another front end")
    vboxmanage("controlvm", "m1", "pause")
    assert pymachine("status", "m1") == "Paused\n"
    pymachine("start", "m1")
    log("saved by another front end")
    vboxmanage("controlvm", "m1", "savestate")
    assert pymachine("status", "m1") == "Saved\n"
    pymachine("start", "m1")
    check("folder of a resumed machine", ssh(f"cat {home}/hello"), "from the home\n")
    log("new certificates, another shared folder, stop and start")
    pymachine("regenerate-certs", "-f", "m1")
    pymachine("stop", "m1")
    assert pymachine("status", "m1") == "Stopped\n"
    pymachine("modify", "--unshare", str(data), "--share", f"{other}:ro", "m1")
    pymachine("start", "m1")
    script = f"cat {home}/hello '{other}/hello'; sudo touch '{other}/new' || echo no file; ls -A {data}"
    output = ssh(f"{script}; echo again > {home}/made; grep -c ' vboxsf ' /proc/mounts")
    # docker-machine's, the home, the read-only one and its hidden writable mount
    expected = ["from the home", "read only in other folder", "no file", "4"]
    check("folders after a stop and a start", output.splitlines(), expected)
    check("made after a start", (home / "made").read_text(), "again\n")
    check("nothing is made in the read-only folder", sorted(path.name for path in other.iterdir()), ["folder", "hello"])
    assert pymachine("ip", "m1").strip() == address
    pymachine("config", "m1")
    check_names(address)
    pymachine("kill", "m1")
    pymachine("rm", "-y", "m1")
    left = [
        subprocess.run([VBOXMANAGE, "list", kind], capture_output=True, text=True, check=True).stdout
        for kind in ("vms", "hdds", "dvds")
    ]
    assert left == ["", "", ""], left
    assert not (STORE / "machines" / "m1").exists()
    assert not folder_checks.wrong, folder_checks.wrong
    log("MACHINE PASSED")


if __name__ == "__main__":
    main()
