"""Folders of the host in machines of the default driver, as containers see them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_clones import IMPORT, RESUMED, docker, ssh, with_shared_template

from pymachine.system import wait
from support import folders, images, open_shells, packages
from support.open_shells import OpenShell
from support.runner import Pymachine, private_store
from support.unprivileged import USERS, as_user

pytestmark = pytest.mark.timeout(1800)

# A change on one side is visible on the other one within a second. A container may start late on a busy host.
VISIBLE_SECONDS = 180.0
# Sets `tag` to the name of the 9p device of the read-only folder, in the machine.
TAG_OF_DOCUMENTS = "tag=$(sed -n 's/^\\([^ ]*\\) .documents .*/\\1/p' /proc/mounts)"
NAMES = (
    *("plain", "with blank", "comma,comma", "grüße-日本", "quote'\"", "$dollar", "back\\slash", "-dash", "new\nline"),
    # Two ways to write é, which stay different; a character beyond 16 bits; a name of 240 bytes.
    *("caf\u00e9", "cafe\u0301", "🐳", "tab\t", "control\x01", "\u200f", "ü" * 120),
)
# Changes a page of a file through shared memory, after it has seen a change of another program there.
MAPPER = r"""
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words) { /* FILE WAIT-FOR WRITE: at two places of the file */
    int file = open(words[1], O_RDWR);
    char *memory = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || memory == MAP_FAILED) return 1;
    while (strncmp(memory, words[2], strlen(words[2])) || strncmp(memory + 500000, words[2], strlen(words[2])))
        usleep(10000);
    memcpy(memory, words[3], strlen(words[3]));
    memcpy(memory + 500000, words[3], strlen(words[3]));
    return msync(memory, 1 << 20, MS_SYNC) != 0;
}
"""
COMPOSE = """
services:
  app:
    image: box:1
    working_dir: /app
    volumes: [".:/app"]
    command: [sh, -c, 'echo "$$NAME" > made; until [ -e wanted ]; do sleep 0.1; done; cat wanted > seen']
    environment: {NAME: from compose}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the machine shares at its own path. Programs are in a part of it that the host does not watch."""
    folder = tmp_path_factory.mktemp("shared")
    packages.unpack(folder / "node_modules", "util-linux")
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the machine shares read-only at /documents."""
    documents = tmp_path_factory.mktemp("documents")
    (documents / "read").write_text("only\n")
    (documents / "folder").mkdir()
    for parent in (documents, *documents.parents):  # so that the guest's user may read it, too
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return documents


@pytest.fixture(scope="module")
def machine(folder: Path, documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pymachine]:
    """A machine `one` with three shared folders and an image `box` with busybox."""
    odd = tmp_path_factory.mktemp("odd") / "a b, grüße"
    odd.mkdir()
    (odd / "inside").write_text("odd\n")
    with private_store() as program:
        with_shared_template(program)
        words = ["--share", str(folder), "--share", f"{documents}:/documents:ro", "--share", f"{odd}:/{odd.name}"]
        assert RESUMED in program("create", *words, "one").stdout
        layer = tmp_path_factory.mktemp("image") / "box.tar"
        layer.write_bytes(images.alpine_like("3", packages=""))
        docker(program, "one", f"docker import {layer} box:1")
        yield program


@pytest.fixture(scope="module")
def guest(machine: Pymachine) -> Iterator[OpenShell]:
    """A shell in the machine. It runs until the first test that restores a snapshot."""
    with open_shells.in_machine(machine, "one") as shell:
        yield shell


@pytest.fixture(scope="module")
def container(machine: Pymachine, folder: Path) -> Iterator[OpenShell]:
    """A shell in the container `first`, which has the writable folder at /work. It runs as long as `guest`."""
    with open_shells.in_container(machine, "one", "--name", "first", "-v", f"{folder}:/work", "box:1") as shell:
        shell(packages.link_script("/work/node_modules"))
        yield shell


@pytest.fixture(scope="module")
def privileged(machine: Pymachine, guest: OpenShell, folder: Path) -> Iterator[OpenShell]:
    """The same in a privileged container.

    It has the read-only folder at /documents, and the mount by which the guest sets owners in it at /writable.
    """
    tag = guest(f"{TAG_OF_DOCUMENTS}; echo $tag").strip()
    mounts = (f"{folder}:/work", "/documents:/documents", f"/run/pymachine/shares/{tag}:/writable")
    words = [word for mount in mounts for word in ("-v", mount)]
    with open_shells.in_container(machine, "one", "--privileged", *words, "box:1") as shell:
        shell(packages.link_script("/work/node_modules"))
        yield shell


@pytest.fixture
def work(folder: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder in the writable one."""
    return folders.make_empty(folder, request)


def inside(container: OpenShell, work: Path, script: str) -> str:
    """Run a shell script in one of the containers above, with `work` as its working folder."""
    return container(f"cd /work/{work.name}\n{script}")


def box(program: Pymachine, work: Path, script: str, *, name: str = "one") -> str:
    """Run a shell script in a new container whose working folder is `work`, mounted at /work."""
    mount = shlex.quote(f"{work}:/work")
    return docker(program, name, f"docker run --rm -v {mount} -w /work box:1 sh -c {shlex.quote(script)}")


def visible(condition: Callable[[], bool], what: str) -> None:
    wait.until(lambda: condition() or None, deadline=VISIBLE_SECONDS, what=what, interval=0.05)


# -- before there are containers ----------------------------------------------------------------------------------


def test_a_read_only_folder_cannot_be_changed_by_root_of_the_guest(guest: OpenShell) -> None:
    """First in this file, since the folder cannot be mounted again while a container has mounted it."""
    output = guest(
        "cat /documents/read; cd /documents; for command in 'touch new' 'rm read' 'mv read other' 'chmod 777 read'"
        " 'ln read other' 'mkdir new' 'touch -c read'; do sudo $command 2> /dev/null && echo $command; done;"
        # A mount that the guest makes itself is read-only, too: the host enforces it.
        f" cd /; {TAG_OF_DOCUMENTS}; sudo umount /documents /run/pymachine/shares/$tag;"
        " sudo mount -t 9p -o rw,trans=virtio,version=9p2000.L,cache=mmap,access=any $tag /documents;"
        " cat /documents/read; sudo touch /documents/new 2> /dev/null && echo written;"
        " sudo umount /documents; sudo /usr/lib/pymachine/surroundings mounts; cat /documents/read",
    )
    assert output == "only\nonly\nonly\n"


# -- what containers can do --------------------------------------------------------------------------------------


def test_files_made_in_containers_belong_to_the_user(container: OpenShell, work: Path) -> None:
    output = inside(
        container, work, "echo text > made; mkdir folder; chown -R 999:999 .; chmod 640 made; stat -c %u made"
    )
    status = (work / "made").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o640)
    assert (work / "folder").stat().st_uid == os.getuid()
    assert output == f"{os.getuid()}\n"
    assert (work / "made").read_text() == "text\n"


@pytest.mark.usefixtures("container")
def test_a_container_of_another_user_can_write_where_all_may(machine: Pymachine, work: Path) -> None:
    work.chmod(0o1777)
    docker(machine, "one", f"docker exec --user 4321:4321 -w /work/{work.name} first sh -c 'id -u > made'")
    assert (work / "made").read_text() == "4321\n"
    assert (work / "made").stat().st_uid == os.getuid()


def test_links_have_the_same_meaning_on_both_sides(container: OpenShell, work: Path) -> None:
    (work / "target").write_text("content\n")
    (work / "from-host").symlink_to("target")
    inside(container, work, "cat from-host; ln -s target symbolic; ln target hard; ln -s /etc/hostname absolute")
    assert (work / "symbolic").readlink() == Path("target")
    assert (work / "absolute").readlink() == Path("/etc/hostname")
    assert (work / "hard").stat().st_ino == (work / "target").stat().st_ino


def test_names_are_bytes(container: OpenShell, work: Path) -> None:
    for name in NAMES:
        (work / name).write_text(name)
    listed = inside(
        container, work, 'for each in *; do [ "$(cat "./$each")" = "$each" ] || echo "$each"; : > "./$each.made"; done'
    )
    assert listed == ""
    assert {path.name for path in work.iterdir()} == {*NAMES, *(f"{name}.made" for name in NAMES)}


def test_sparse_files_stay_sparse(container: OpenShell, work: Path) -> None:
    inside(container, work, "dd if=/dev/zero of=sparse bs=1 count=1 seek=1000000000 2> /dev/null")
    status = (work / "sparse").stat()
    assert status.st_size == 1000000001
    assert status.st_blocks * 512 < 1 << 20


def test_a_file_is_renamed_over_an_open_one(container: OpenShell, work: Path) -> None:
    output = inside(container, work, "echo old > file; exec 3< file; echo new > next; mv next file; cat <&3; cat file")
    assert output == "old\nnew\n"


def test_locks_exclude_other_containers(container: OpenShell, privileged: OpenShell, work: Path) -> None:
    first = "flock file -c ': > held; until [ -e refused ]; do sleep 0.1; done; echo first >> order'"
    second = (
        "until [ -e held ]; do sleep 0.1; done; flock -n file true || : > refused; flock file -c 'echo second >> order'"
    )
    with running(lambda: inside(container, work, first)):
        inside(privileged, work, second)
    assert (work / "order").read_text() == "first\nsecond\n"


def test_memory_that_containers_map_is_shared_and_written_to_the_host(
    container: OpenShell, privileged: OpenShell, work: Path
) -> None:
    """sqlite's write-ahead log and linkers need that."""
    source = work / "mapper.c"
    source.write_text(MAPPER)
    subprocess.run(["cc", "-static", "-o", str(work / "mapper"), str(source)], check=True)
    content = bytearray(b"." * (1 << 20))
    content[:5] = content[500000:500005] = b"begin"
    (work / "mapped").write_bytes(content)
    with running(lambda: inside(container, work, "./mapper mapped first second")):
        inside(privileged, work, "./mapper mapped begin first; ./mapper mapped second third")
    content[:6] = content[500000:500006] = b"thirdd"
    assert (work / "mapped").read_bytes() == content


def test_a_folder_may_have_very_many_files(container: OpenShell, work: Path) -> None:
    many = work / "node_modules"  # the host does not report changes in it
    many.mkdir()
    for number in range(100_000):
        (many / f"{number:06}").touch()
    # The shell has sorted the names.
    script = "cd node_modules; set -- *; echo $#; printf '%s\\n' \"$@\" | uniq | wc -l"
    assert inside(container, work, script) == "100000\n100000\n"


# -- both sides see changes --------------------------------------------------------------------------------------


def test_changes_on_the_host_are_visible_in_containers(container: OpenShell, work: Path) -> None:
    (work / "file").write_text("one")
    script = """
        wanted() { until [ "$(cat file 2> /dev/null)" = "$1" ]; do sleep 0.1; done; }
        wanted one; : > seen-one; wanted two; : > seen-two; while [ -e file ]; do sleep 0.1; done; : > seen-none
    """
    with running(lambda: inside(container, work, script)):
        visible((work / "seen-one").exists, "the container to see the file")
        (work / "next").write_text("two")
        (work / "next").rename(work / "file")
        visible((work / "seen-two").exists, "the container to see the change")
        (work / "file").unlink()
        visible((work / "seen-none").exists, "the container to see the removal")


def test_data_of_an_open_file_is_written_to_the_host(container: OpenShell, work: Path) -> None:
    with running(lambda: inside(container, work, "exec 3> log; echo line >&3; while [ ! -e end ]; do sleep 0.1; done")):
        visible(lambda: (work / "log").exists() and (work / "log").read_text() == "line\n", "the line in the log")
        (work / "end").touch()


# -- compose, and other users ------------------------------------------------------------------------------------


@pytest.fixture
def of_user(request: pytest.FixtureRequest) -> Iterator[tuple[Pymachine, Path, int]]:
    """A machine `one` of a user, not root, with an image `box:1`; a folder that it shares; the user's number."""
    user = USERS[-1]
    if user == os.getuid():
        yield request.getfixturevalue("machine"), request.getfixturevalue("folder"), user
        return
    with private_store() as program:
        with_shared_template(program)
        subprocess.run(["chown", "-R", f"{user}:{user}", str(program.home.parent)], check=True)
        program.wrapper = as_user(user)
        assert RESUMED in program("create", "one").stdout
        ssh(program, "one", f"sudo sh -c {shlex.quote(IMPORT)}")
        yield program, program.home, user


def test_compose_mounts_the_folder_of_its_file(of_user: tuple[Pymachine, Path, int]) -> None:
    program, folder, user = of_user
    project = folder / "composed, project"
    project.mkdir()
    os.chown(project, user, -1)
    (project / "docker-compose.yml").write_text(COMPOSE)

    def compose(words: str) -> None:
        # Version 2 is a part of docker. Python's library for HTTP, which version 1 uses, would prefer the variables to
        # the machine's certificate authority.
        script = f"""cd {shlex.quote(str(project))}; unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
            if docker compose version > /dev/null 2>&1; then docker compose {words}; else docker-compose {words}; fi"""
        docker(program, "one", script)

    compose("up -d")
    visible(lambda: (project / "made").exists() and (project / "made").read_text() == "from compose\n", "the container")
    assert (project / "made").stat().st_uid == user
    (project / "wanted").write_text("from the host\n")
    visible(lambda: (project / "seen").exists() and (project / "seen").read_text() == "from the host\n", "the change")
    compose("down")
    assert docker(program, "one", "docker ps -a -q -f name=composed; docker network ls -q -f name=composed") == ""


# -- what a guest cannot do --------------------------------------------------------------------------------------


def test_a_read_only_folder_is_mounted_so_in_containers(privileged: OpenShell) -> None:
    output = privileged(
        "exec 2>&1; cd /documents; grep -c ' /documents 9p ro,' /proc/mounts; touch read || touch new || true"
    )
    assert output.splitlines()[0] == "1"
    assert output.count("Read-only file system") == 2


def test_a_privileged_container_changes_nothing_in_a_read_only_folder(privileged: OpenShell, documents: Path) -> None:
    """The guest's own writable mount is no way around: the host's kernel refuses all but changes of owner."""
    before = statuses(documents)
    script = """
        cd /writable
        for change in 'touch new' 'touch -c read' 'touch -c -d 1970-01-02 read' 'chmod 777 read' 'chmod 777 .' \
            'rm read' 'mv read other' 'ln read other' 'ln -s read other' 'mkdir new' 'mkfifo new' 'mknod new c 1 3' \
            'cp /bin/busybox read' 'truncate -s 0 read' 'mv folder other' 'rmdir folder'; do
            $change 2> /dev/null && echo "$change"
        done
        chown 12:12 read && chown -h 4294967295:4294967295 read folder . && echo owners
    """
    assert privileged(script) == "owners\n"
    assert statuses(documents) == before


def statuses(folder: Path) -> dict[Path, tuple[object, ...]]:
    """Return owner, mode, size, times and content of all files in a folder, and of itself."""
    found: dict[Path, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found[path] = (status.st_uid, status.st_gid, status.st_mode, status.st_size, *times, content)
    return found


def test_links_to_the_outside_lead_into_the_guest(container: OpenShell, work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    (work / "file").symlink_to(secret)
    (work / "folder").symlink_to(tmp_path)
    (work / "up").symlink_to("../../../../../../../../../../" + str(secret))
    output = inside(
        container, work, f"cat file folder/secret up ../{secret} 2> /dev/null; ln {secret} hard 2> /dev/null; ls"
    )
    assert output.split() == ["file", "folder", "up"]


def test_no_setuid_program_or_device_is_made_on_the_host(privileged: OpenShell, work: Path) -> None:
    output = inside(
        privileged,
        work,
        "cp /bin/busybox program; chmod 4755 program; chmod 6777 program; mknod disk b 8 0 2> /dev/null && echo disk;"
        " mknod memory c 1 1 2> /dev/null && echo memory; umask 0; mkdir -m 2775 shared",
    )
    assert output == ""
    modes = {path.name: path.stat().st_mode for path in work.iterdir()}
    assert modes.keys() == {"program", "shared"}
    assert not any(mode & (stat.S_ISUID | stat.S_ISGID) for mode in modes.values())


def test_other_devices_of_the_machine_share_nothing(guest: OpenShell) -> None:
    """A machine has more 9p devices than shared folders."""
    output = guest(
        "mount9p() { sudo mount -t 9p -o trans=virtio,version=9p2000.L $1 /mnt/other; }; sudo mkdir -p /mnt/other;"
        " for number in 3 4 5 6 7; do mount9p share$number && sudo ls -A /mnt/other && sudo umount /mnt/other; done;"
        " mount9p share8 2> /dev/null || echo none",
    )
    assert output == "none\n"


# -- a machine's life --------------------------------------------------------------------------------------------


def test_a_path_with_blanks_and_commas_is_shared(guest: OpenShell) -> None:
    assert guest("cat '/a b, grüße/inside'") == "odd\n"


def test_inspect_ls_and_doctor_show_the_shared_folders(machine: Pymachine, folder: Path) -> None:
    shares = json.loads(machine("inspect", "one").stdout)["Shares"]
    assert shares[0] == {"Path": str(folder), "GuestPath": str(folder), "ReadOnly": False}
    assert [share["GuestPath"] for share in shares] == [str(folder), "/documents", "/a b, grüße"]
    assert json.loads(machine("ls", "--json").stdout)[0]["Shares"] == shares
    assert f"shares {folder}" in machine("doctor", code=None).stdout


def test_a_snapshot_with_memory_needs_folders_that_no_container_uses(
    machine: Pymachine, guest: OpenShell, container: OpenShell, privileged: OpenShell, work: Path
) -> None:
    """No test after this one can use the shells."""
    container.close()
    privileged.close()
    machine("snapshot", "create", "one", "free")
    assert guest(f"grep -c ' {work.parent} 9p' /proc/mounts") == "1\n"
    docker(machine, "one", f"docker run -d --name user -v {work}:/work box:1 sleep 1000")
    outcome = machine("snapshot", "create", "one", "used", code=1)
    assert "the container user uses the shared folder" in outcome.stderr
    assert "--disk-only" in outcome.stderr
    docker(machine, "one", "docker exec user touch /work/still-mounted")
    machine("snapshot", "create", "--disk-only", "one", "used")
    found = {each["Name"]: each["Memory"] for each in json.loads(machine("snapshot", "ls", "--json", "one").stdout)}
    assert found == {"free": True, "used": False}
    guest.close()
    machine("snapshot", "restore", "one", "free")
    box(machine, work, "touch after-restore")
    assert {path.name for path in work.iterdir()} == {"still-mounted", "after-restore"}


def test_two_machines_share_one_folder(machine: Pymachine, work: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own\n")
    machine("create", "--share", str(work), "--share", f"{tmp_path}:/own:ro", "two")
    try:
        box(machine, work, "echo one > one")
        with open_shells.in_machine(machine, "two") as guest:
            guest(IMPORT)
            script = "cat /work/one > /work/two; echo two >> /work/two"
            guest(f"docker run --rm -v {work}:/work box:1 sh -c '{script.replace('cat', 'busybox cat')}'")
            assert (work / "two").read_text() == "one\ntwo\n"
            assert guest("sudo cat /own/own; ls /documents; sudo touch /own/new || echo no") == "own\nno\n"
    finally:
        machine("rm", "-y", "two")


def test_shares_are_changed_while_the_machine_is_stopped_and_survive_a_killed_qemu(
    machine: Pymachine, folder: Path, work: Path, tmp_path: Path
) -> None:
    late, vanishing = tmp_path / "late", tmp_path / "vanishing"
    for each in (late, vanishing):
        each.mkdir()
        (each / "file").write_text(each.name)
    machine("snapshot", "create", "one", "before")
    words = ("--share", str(late), "--share", f"{vanishing}:/vanishing", "--unshare", "/a b, grüße")
    assert "--restart" in machine("modify", *words, "one", code=1).stderr
    assert "is not shared" in machine("modify", "--unshare", "/none", "one", code=1).stderr

    # A killed QEMU damages only the file that it writes.
    (work / "other").write_text("other\n")
    with running(lambda: box(machine, work, "while :; do echo line >> written; done"), may_fail=True):
        visible(lambda: (work / "written").exists() and (work / "written").stat().st_size > 50, "lines in the file")
        (qemu,) = [pid for pid, command in machine.processes().items() if command.startswith("/usr/bin/qemu-system")]
        os.kill(qemu, signal.SIGKILL)
    assert machine("status", "one").stdout == "Stopped\n"
    assert (work / "other").read_text() == "other\n"
    assert sorted(path.name for path in work.iterdir()) == ["other", "written"]

    # The memory of the snapshot has the old folder mounted.
    machine("modify", *words, "one")
    machine("snapshot", "restore", "one", "before")
    mounts = "grep ' 9p ' /proc/mounts | grep -vc ' /run/pymachine/'"
    script = f"cat {late}/file /vanishing/file; cat '/a b, grüße/inside' 2> /dev/null; {mounts}"
    assert ssh(machine, "one", script) == "latevanishing4\n"
    assert box(machine, work, "cat other") == "other\n"

    machine("kill", "one")
    vanishing.rename(tmp_path / "gone")
    machine("rename", "one", "other")
    text = machine("start", "other").text
    assert f"{vanishing}:/vanishing is not shared: it does not exist" in text
    script = f"cat {late}/file; sudo ls {folder} > /dev/null; [ ! -e /vanishing/file ] && [ ! -e '/a b, grüße' ]"
    assert ssh(machine, "other", script) == "late"
    assert "it does not exist" in machine("doctor", code=None).stdout


# -- new machines ------------------------------------------------------------------------------------------------


def test_the_home_is_shared_by_default_and_in_ci_only_the_current_folder(machine: Pymachine) -> None:
    (machine.home / "project").mkdir()
    (machine.home / "mine").write_text("mine\n")
    script = f"cat {machine.home}/mine; ls -A {machine.home}/project"
    machine("create", "default")
    assert ssh(machine, "default", script) == "mine\n"
    machine("rm", "-y", "default")
    done = subprocess.run(
        ["pymachine", "run", "sh", "-c", "docker info --format '{{.Name}}'; pymachine ls --json"],
        env=machine.environment({"CI": "true"}),
        cwd=machine.home / "project",
        capture_output=True,
        text=True,
        check=True,
    )
    (temporary,) = [each for each in json.loads(done.stdout.partition("\n")[2]) if each["Name"].startswith("run-")]
    assert [share["Path"] for share in temporary["Shares"]] == [str(machine.home / "project")]


def test_folders_that_cannot_be_shared_are_refused_before_a_machine_exists(machine: Pymachine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = machine("ls", "-q").stdout
    for word in ("/usr", "/", f"{tmp_path}/file", f"{tmp_path}/none", "/var/lib/docker", f"{tmp_path}:relative"):
        assert "cannot be shared" in machine("create", "--share", word, "refused", code=1).stderr
    many = [word for number in range(9) for word in ("--share", f"{tmp_path}:/many/{number}")]
    assert "at most 8 folders" in machine("create", *many, "refused", code=1).stderr
    assert machine("ls", "-q").stdout == before


class running:  # noqa: N801 (used as a statement)
    """Run `task` in a thread during the block, and wait for its end. Its failure is raised, unless it `may_fail`."""

    def __init__(self, task: Callable[[], object], *, may_fail: bool = False) -> None:
        self._problem: BaseException | None = None
        self._may_fail = may_fail
        self._thread = threading.Thread(target=self._run, args=(task,))

    def _run(self, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 (raised at the end)
            self._problem = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.join()
        if self._problem is not None and not self._may_fail and kind is None:
            raise self._problem
