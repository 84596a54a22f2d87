"""Drivers are found through entry points, and the arrows between packages point down."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from pymachine import registry
from pymachine.driver import Capability, Driver, DriverInfo
from pymachine.errors import DriverNotFoundError

ROOT = Path(__file__).parents[2]
DRIVERS_MAY_IMPORT = {
    "backlog", "channel", "crashes", "driver", "errors", "fields", "files", "forwarder", "loopback", "names",
    "os_errors", "progress", "published", "run", "search_domains", "unfinished", "wait",
}  # fmt: skip


class FromTheFuture(Driver):
    info = DriverInfo("future", "made for another contract", Capability.NONE, api_version=99)


NOT_A_DRIVER = object()


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(found))
    registry.load.cache_clear()
    return found


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_the_drivers_of_this_project_are_registered_as_others_would_be() -> None:
    assert "qemu" in registry.names()
    assert registry.load("qemu").info.name == "qemu"


def test_an_unknown_driver_is_named_with_docker_machines_text(entries: list[EntryPoint]) -> None:
    text = 'Driver "bogus" not found. Do you have the plugin binary "docker-machine-driver-bogus" accessible'
    with pytest.raises(DriverNotFoundError, match=text):
        registry.load("bogus")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["a:B", "c:D"], "registered more than once: a:B, c:D"),
        (["no_such_module:X"], "cannot be loaded"),
        ([f"{__name__}:missing"], "cannot be loaded"),
        ([f"{__name__}:NOT_A_DRIVER"], "is not a pymachine.driver.Driver"),
        ([f"{__name__}:FromTheFuture"], "version 99 of the driver contract"),
    ],
)
def test_a_driver_that_cannot_be_used_says_why(entries: list[EntryPoint], values: list[str], says: str) -> None:
    entries.extend(entry("odd", value) for value in values)
    with pytest.raises(DriverNotFoundError, match=says):
        registry.load("odd")


def imported(path: Path) -> set[str]:
    """The names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_drivers_import_only_the_public_contract() -> None:
    files = list((ROOT / "drivers").rglob("*.py"))
    assert files
    for path in files:
        modules = {name.split(".")[1] for name in imported(path) if name.startswith("pymachine.")}
        assert modules <= DRIVERS_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {modules - DRIVERS_MAY_IMPORT}"


def test_the_core_imports_no_driver_and_names_none() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert not any(name.startswith("pymachine_driver") for name in imported(path)), path


LAYERS = [
    {
        "errors",
        "fields",
        "names",
        "os_errors",
        "printable",
        "streams",
        "paths",
        "deferral",
        "backlog",
        "run",
        "wait",
        "http_client",
        "progress",
        "files",
        "folders",
        "durations",
        "content",
    },
    {"channel", "crashes", "driver", "loopback", "published", "unfinished"},
    {"machine", "client_files", "extra_fields", "migrations", "gotemplate", "shells"},
    {
        "store",
        "registry",
        "tls",
        "ssh",
        "certs",
        "engine",
        "forwarder",
        "listeners",
        "search_domains",
        "identity",
        "image",
        "provision",
        "templates",
        "snapshots",
        "testing",
        "archive",
        "import_checks",
        "contexts",
    },
    {"recovery"},
    {"manager", "upkeep", "portable", "prune", "copies"},
    {"cli"},
    {"__main__"},
]


def test_arrows_between_modules_point_down() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    source = ROOT / "src" / "pymachine"
    for path in source.rglob("*.py"):
        own = path.relative_to(source).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in level, f"{own} is in no layer"
        for name in imported(path):
            target = name.split(".")[1] if name.startswith("pymachine.") else None
            if target in level:
                assert level[target] <= level[own], f"{path.relative_to(ROOT)} imports {name}"
