"""Reading pymachine.toml: where it is found, its keys and types, and files that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pymachine.cli import project_file
from pymachine.cli.project_file import TEXT, TEXTS, ProjectFile, ProjectFileError
from pymachine.system import files
from support import unprivileged

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
SCHEMA = json.loads((REFERENCE / "project-file-schema.json").read_text())
ENGINE = {"label": TEXTS, "storage-driver": TEXT}


def read(folder: Path, text: str | bytes) -> ProjectFile:
    path = folder / "pymachine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return project_file.read(path, engine_keys=ENGINE)


def refused(folder: Path, text: str | bytes) -> ProjectFileError:
    with pytest.raises(ProjectFileError) as caught:
        read(folder, text)
    assert str(folder) in caught.value.brief
    assert "\n" not in caught.value.brief
    return caught.value


COMPLETE = """
[machine]
name = "shop"
driver = "sized"
cpus = 2
memory = "4g"
disk = 20000
shares = [".", "../data:/data:ro"]
share-events = false
ca-certs = ["company.pem"]
host-proxy = false
container-proxy = true
socket = true
ipv6 = true
ipv6-ports = true
template = true
tls-san = ["shop.example.org"]
provision = ["setup.sh"]

[machine.engine]
label = ["a=b"]
storage-driver = "overlay2"

[machine.options]
sized-mode = "quick"
sized-patch = ["a", "b"]
sized-quick = true
"""


def test_all_keys_are_read(tmp_path: Path) -> None:
    file = read(tmp_path, COMPLETE)
    assert file.machine["memory"] == "4g"
    assert file.texts("shares") == [".", "../data:/data:ro"]
    assert file.engine == {"label": ["a=b"], "storage-driver": "overlay2"}
    assert file.options == {"sized-mode": "quick", "sized-patch": ["a", "b"], "sized-quick": True}
    assert file.place("memory") == f"machine.memory in {tmp_path}/pymachine.toml"
    assert file.folder == tmp_path
    assert set(file.machine) == set(project_file.KEYS)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[machine]\n", "\ufeff[machine]\r\ncpus = 1\r\n"])
def test_a_file_may_be_empty_or_of_another_system(tmp_path: Path, text: str) -> None:
    assert set(read(tmp_path, text).machine) <= {"cpus"}


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[machine]\nmemroy = 1", "machine.memroy", "machine.memory"),
        ("[machine]\ncpu = 1", "machine.cpu", "machine.cpus"),
        ("[machine]\nshare = []", "machine.share", "machine.shares"),
        ("[machine.engine]\nlabels = []", "machine.engine.labels", "machine.engine.label"),
        ("[machin]\ncpus = 1", "machin", "machine"),
        ('[machine]\n"" = 1', "machine.", "Known here: machine.ca-certs"),
        ("[machine]\nxyzzy = 1", "machine.xyzzy", "Known here: machine.ca-certs"),
        ('[machine]\n"a\\u001b[31m" = 1', "machine.a\\x1b[31m", "Known here"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_one(tmp_path: Path, text: str, key: str, hint: str) -> None:
    error = refused(tmp_path, text)
    assert f"there is no key {key}" in error.brief
    assert hint in error.hint


def test_a_key_above_its_table_is_explained(tmp_path: Path) -> None:
    error = refused(tmp_path, "memory = 4096\n")
    assert "memory is not in a table" in error.brief
    assert "[machine]" in error.hint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cpus = true", "machine.cpus is true, expected a whole number"),
        ("cpus = 1.5", "machine.cpus is 1.5, expected a whole number"),
        ('cpus = "two"', "machine.cpus is 'two', expected a whole number"),
        (f"cpus = {2**70}", "machine.cpus is a number out of range, expected"),
        (f"cpus = 0x{'f' * 10000}", "machine.cpus is a number out of range, expected"),
        ("memory = []", "machine.memory is a list, expected a whole number, or a text"),
        ("memory = 1979-05-27", "machine.memory is datetime.date(1979, 5, 27), expected"),
        ('shares = "."', "machine.shares is '.', expected a list of texts"),
        ("shares = [1]", "machine.shares is a list with 1, expected a list of texts"),
        ('shares = ["a\\u0000b"]', "machine.shares is a list with 'a\\x00b', expected"),
        ('shares = [["."]]', "machine.shares is a list with a list, expected"),
        ("template = 1", "machine.template is 1, expected a text, true or false"),
        ("name = {}", "machine.name is a table, expected a line of text"),
        ('name = "a\\nb"', "machine.name is 'a\\nb', expected a line of text"),
        ("engine = 1", "machine.engine is 1, expected a table"),
        ("options = []", "machine.options is a list, expected a table"),
        ("engine.label = 1", "machine.engine.label is 1, expected a list of texts"),
        ("options.sized-memory = 1.5", "machine.options.sized-memory is 1.5, expected a text, a whole number, true"),
        ("options.sized-memory = {a = 1}", "machine.options.sized-memory is a table, expected"),
    ],
)
def test_a_value_of_a_wrong_type_is_an_error_that_names_the_key(tmp_path: Path, line: str, says: str) -> None:
    assert says in refused(tmp_path, f"[machine]\n{line}\n").brief


@pytest.mark.parametrize("text", ["machine = 1", "machine = []", "[[machine]]\ncpus = 1"])
def test_machine_must_be_a_table(tmp_path: Path, text: str) -> None:
    assert "machine is" in refused(tmp_path, text).brief


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[machine]\ncpus =\n", "is not TOML: Invalid value (at line 2, column 7)"),
        ("[machine]\ncpus = 1\ncpus = 2\n", "(at line 3"),
        (b"[machine]\n\nname = '\xff'\n", "is not TOML: line 3 is not UTF-8 text"),
        (b"\x7fELF\x00\x00", "is not TOML: Invalid statement (at line 1"),
        ("a = " + "[" * 12000, "nested too deeply"),
        ("a = " + "{a = " * 3000, "nested too deeply"),
        ("cpus = " + "9" * 5000, "is not TOML: "),
    ],
)
def test_a_file_that_is_not_toml_is_an_error_with_the_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert says in refused(tmp_path, text).brief


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    longest = project_file.LONGEST_BYTES
    assert f"Larger than {longest} bytes" in refused(tmp_path, "#" * (longest + 1)).brief
    assert read(tmp_path, "#" * longest).machine == {}
    with (tmp_path / "pymachine.toml").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ProjectFileError, match="Larger than"):
        project_file.read(tmp_path / "pymachine.toml", engine_keys=ENGINE)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "dangling"])
def test_something_else_than_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pymachine.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "none")
    assert project_file.find(tmp_path) == path
    with pytest.raises(ProjectFileError, match=f"cannot read {path}"):
        project_file.read(path, engine_keys=ENGINE)


def test_a_file_that_cannot_be_read_is_an_error_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "pymachine.toml"
    path.touch()
    unprivileged.close_off(path)
    words = [str(Path(sys.executable).with_name("pymachine")), "up", "--file", str(path)]
    environment = {**os.environ, "MACHINE_STORAGE_PATH": str(tmp_path / "store")}
    ended = subprocess.run(
        unprivileged.command(words), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot read {path}: Permission denied\nHint: {path} belongs to ")
    assert "--file" in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="other owners take root")
def test_the_owner_is_that_of_the_file_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "pymachine.toml", tmp_path / "other"
    path.write_text("[machine]")
    other.touch()
    os.chown(path, 65534, 65534)
    read_open = files.read_open

    def replaced(*args: Any, **options: Any) -> bytes:
        content = read_open(*args, **options)
        other.replace(path)
        return content

    monkeypatch.setattr(files, "read_open", replaced)
    assert project_file.read(path, engine_keys=ENGINE).owner == 65534


def test_the_file_is_looked_for_up_to_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inner = tmp_path / "home" / "a" / "b"
    inner.mkdir(parents=True)
    above, own = tmp_path / "pymachine.toml", tmp_path / "home" / "a" / "pymachine.toml"
    above.touch()
    assert project_file.find(inner) is None
    assert project_file.find(tmp_path / "other") == above
    (tmp_path / "home" / "pymachine.toml").touch()
    assert project_file.find(inner) == tmp_path / "home" / "pymachine.toml"
    own.touch()
    assert project_file.find(inner) == own
    (inner / "pymachine.toml").touch()
    assert project_file.find(inner) == inner / "pymachine.toml"


# -- the published schema ---------------------------------------------------------------------------------------


def fits_schema(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(tomllib.loads(text)))


def test_the_schema_is_a_schema_and_has_all_keys() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    properties: dict[str, Any] = SCHEMA["properties"]["machine"]["properties"]
    assert properties.keys() == {*project_file.KEYS, "engine", "options"}
    text = (REFERENCE / "project-file.md").read_text()
    for name in (*project_file.KEYS, *properties["engine"]["properties"], *properties["options"]["properties"]):
        assert f"\n| `{name}` |" in text


def test_the_schema_accepts_what_pymachine_accepts(tmp_path: Path) -> None:
    assert fits_schema(COMPLETE)
    assert fits_schema('[machine]\ntemplate = "web"\n')
    assert fits_schema("")


@pytest.mark.parametrize(
    "line",
    [
        *("cpus = true", 'cpus = "2"', "cpus = 1.5", 'shares = "."', "shares = [1]", "template = 1", "memory = []"),
        *("bogus = 1", "engine.bogus = 1", "engine.label = 1", "options.x = 1.5", 'name = "a\\nb"', "options = 1"),
        *("options.x = {a = 1}", "engine = 1", "name = 1", "driver = []"),
    ],
)
def test_the_schema_refuses_what_pymachine_refuses(tmp_path: Path, line: str) -> None:
    refused(tmp_path, f"[machine]\n{line}\n")
    assert not fits_schema(f"[machine]\n{line}\n")
