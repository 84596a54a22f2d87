"""Run in the nested computer: the installed program, from create to rm, with a machine that runs pymachine's image."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

STORE = Path("/store")
IMAGE = "/payload/boot2docker.iso"
PROGRAM = [sys.executable, "-m", "pymachine", "--storage-path", str(STORE)]
VBOXMANAGE = "/usr/lib/virtualbox/VBoxManage"
CONSOLE = STORE / "machines" / "m1" / "console.log"


def log(text: str) -> None:
    sys.stdout.write(f"[{time.monotonic():.0f}] {text}\n")
    sys.stdout.flush()


def pymachine(*words: str, code: int = 0) -> str:
    """Run the program, log its output, and expect exit code `code`."""
    log(f"$ pymachine {' '.join(words)}")
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    log(f"{done.stdout}{done.stderr}exit {done.returncode}")
    assert done.returncode == code, words
    return done.stdout


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


def main() -> None:
    Path("/home/hello").write_text("from the host\n")
    (Path.home() / "hello").write_text("from the home\n")
    data = Path("/srv/data")
    data.mkdir(parents=True)
    (data / "hello").write_text("read only\n")
    threading.Thread(target=watch_console, daemon=True).start()
    pymachine("create", "--driver", "virtualbox", "--virtualbox-boot2docker-url", IMAGE, "m1")
    assert pymachine("status", "m1") == "Running\n"
    address = pymachine("ip", "m1").strip()
    assert address.startswith("192.168.56.")
    assert "virtualbox" in pymachine("ls")
    output = pymachine("ssh", "m1", f"hostname; ip -4 -o address; cat /hosthome/hello {Path.home()}/hello")
    assert "m1" in output.splitlines()
    assert f"inet {address}/24" in output
    assert "from the host" in output
    assert "from the home" in output
    assert pymachine("version", "m1").strip()
    pymachine("config", "m1")
    log("paused by another front end")
    vboxmanage("controlvm", "m1", "pause")
    assert pymachine("status", "m1") == "Paused\n"
    pymachine("start", "m1")
    log("saved by another front end")
    vboxmanage("controlvm", "m1", "savestate")
    assert pymachine("status", "m1") == "Saved\n"
    pymachine("start", "m1")
    pymachine("ssh", "m1", "uptime")
    log("new certificates, another shared folder, stop and start")
    pymachine("regenerate-certs", "-f", "m1")
    pymachine("stop", "m1")
    assert pymachine("status", "m1") == "Stopped\n"
    pymachine("modify", "--share", f"{data}:ro", "m1")
    pymachine("start", "m1")
    output = pymachine(
        "ssh",
        "m1",
        f"cat {data}/hello; sudo mount -o remount,rw {data}; sudo touch {data}/new || echo no file; "
        f"echo made > {Path.home()}/made; ln -s /etc {Path.home()}/link || echo no link",
    )
    assert {"read only", "no file", "no link"} <= set(output.splitlines())
    assert not (data / "new").exists()
    assert (Path.home() / "made").read_text() == "made\n"
    assert not (Path.home() / "link").is_symlink()
    assert pymachine("ip", "m1").strip() == address
    pymachine("config", "m1")
    pymachine("kill", "m1")
    pymachine("rm", "-y", "m1")
    left = [
        subprocess.run([VBOXMANAGE, "list", kind], capture_output=True, text=True, check=True).stdout
        for kind in ("vms", "hdds", "dvds")
    ]
    assert left == ["", "", ""], left
    assert not (STORE / "machines" / "m1").exists()
    log("MACHINE PASSED")


if __name__ == "__main__":
    main()
