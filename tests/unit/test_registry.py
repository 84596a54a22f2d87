"""Drivers are found through entry points, and imports between packages point downwards."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from pymachine.driver import registry
from pymachine.driver.abilities import ConnectionImportable
from pymachine.driver.contract import Driver, DriverInfo, Trait
from pymachine.errors import DriverNotFoundError

ROOT = Path(__file__).parents[2]
DRIVERS_MAY_IMPORT = {"driver"}


class FromTheFuture(Driver):
    info = DriverInfo("future", "made for another contract", Trait.NONE, api_version=99)


NOT_A_DRIVER = object()


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    found: list[EntryPoint] = []
    caches = (registry.load, registry.default_name, registry._find, registry._finders)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: EntryPoints(each for each in found if each.group == group)
    )
    for cached in caches:
        cached.cache_clear()
    yield found
    for cached in caches:
        cached.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_the_bundled_drivers_are_registered_through_entry_points() -> None:
    assert "qemu" in registry.names()
    assert registry.load("qemu").info.name == "qemu"


def test_an_unknown_driver_has_docker_machines_message(entries: list[EntryPoint]) -> None:
    text = 'Driver "bogus" not found. Do you have the plugin binary "docker-machine-driver-bogus" accessible'
    with pytest.raises(DriverNotFoundError, match=text):
        registry.load("bogus")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["a:B", "c:D"], "registered more than once: a:B, c:D"),
        (["no_such_module:X"], "cannot be loaded"),
        ([f"{__name__}:missing"], "cannot be loaded"),
        ([f"{__name__}:NOT_A_DRIVER"], "is not a pymachine.driver.contract.Driver"),
        ([f"{__name__}:FromTheFuture"], "version 99 of the driver contract"),
    ],
)
def test_an_unusable_driver_is_refused_with_the_reason(entries: list[EntryPoint], values: list[str], says: str) -> None:
    entries.extend(entry("odd", value) for value in values)
    with pytest.raises(DriverNotFoundError, match=says):
        registry.load("odd")


class FoundDriver(Driver):
    info = DriverInfo("found", "found on this host")


class FakeFinder:
    def find(self, name: str, program: str) -> type[Driver] | None:
        if program == "/gone":
            raise DriverNotFoundError("it is gone")
        return FoundDriver if name == "found" else None

    def names(self) -> list[str]:
        return ["found", "qemu"]

    def advice(self, name: str) -> str:
        return f"Install {name}." if name == "known" else ""


class TestFinders:
    @pytest.fixture(autouse=True)
    def _finder(self, entries: list[EntryPoint]) -> None:
        entries.append(EntryPoint("fake", f"{__name__}:FakeFinder", registry.FINDERS))
        entries.append(entry("qemu", "pymachine_driver_qemu:Driver"))

    def test_a_driver_that_no_package_registers_is_found(self) -> None:
        assert registry.load("found") is FoundDriver
        assert registry.load_for_machine("found") is FoundDriver
        assert registry.load_for_machine("found", "/somewhere") is FoundDriver
        assert registry.load("qemu").info.name == "qemu"

    def test_found_names_are_those_that_no_package_registers(self) -> None:
        assert registry.names() == ["qemu"]
        assert registry.found_names() == ["found"]

    def test_an_unknown_driver_has_the_advice_of_the_finders(self) -> None:
        with pytest.raises(DriverNotFoundError) as raised:
            registry.load("known")
        assert raised.value.hint == "Install known.\nDrivers installed here: found, qemu."

    def test_the_error_of_a_recorded_program_is_passed_on(self) -> None:
        with pytest.raises(DriverNotFoundError, match="it is gone"):
            registry.load_for_machine("found", "/gone")


def test_a_package_that_cannot_be_imported_does_not_hide_the_other_drivers(
    entries: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_driver.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    qemu, none = entry("qemu", "pymachine_driver_qemu:Driver"), entry("none", "pymachine_driver_none:Driver")
    entries.extend([entry("broken", "broken_driver:Driver"), qemu, none])
    assert registry.default_name() == "qemu"
    assert registry.name_with(ConnectionImportable) == "none"


def imported_modules(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, at any level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if is_module(name) else node.module for name in names)
    return found


def is_module(name: str) -> bool:
    path = (ROOT / "src").joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_drivers_import_only_the_public_contract() -> None:
    files = list((ROOT / "drivers").rglob("*.py"))
    assert files
    for path in files:
        modules = {name.split(".")[1] for name in imported_modules(path) if name.startswith("pymachine.")}
        assert modules <= DRIVERS_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {modules - DRIVERS_MAY_IMPORT}"


def test_the_core_imports_no_driver() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert not any(name.startswith("pymachine_driver") for name in imported_modules(path)), path


# Words of OpenSSH, of an empty list, of an unknown stage and of no packages; and a module of the kernel.
NOT_A_DRIVER_NAME = {
    ("ssh/openssh.py", "none"),
    ("ssh/host_entries.py", "none"),
    ("hosts/shares.py", "none"),
    ("ssh/remote_script.py", "none"),
    ("driver/registry.py", "none"),
    ("driver/kit/identity_channel.py", "none"),
    ("provision/host_setup.py", "none"),
    ("image/kernel/module_list.py", "drivers/firmware/qemu_fw_cfg"),
}


def names_in(path: Path) -> list[str]:
    """The identifiers and texts in a module, and of a command the help, but no comments and no docstrings."""
    tree = ast.parse(path.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    if path.parent.name == "cli":
        commands = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.decorator_list]
        documents -= {id(node.body[0].value) for node in commands if isinstance(node.body[0], ast.Expr)}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            found.append(node.value)
        for field in ("id", "attr", "name", "arg"):
            found += [getattr(node, field)] if isinstance(getattr(node, field, None), str) else []
    return found


def test_the_core_names_no_driver() -> None:
    # "generic" and "none" are words of their own, too.
    common = {name: rf"\A{name}\Z|--{name}-|driver ['\"`]*{name}\b" for name in ("generic", "none")}
    patterns = [re.compile(common.get(name, f"(?i){name}")) for name in registry.names()]
    leaks = []
    for path in (ROOT / "src" / "pymachine").rglob("*.py"):
        own = str(path.relative_to(ROOT / "src" / "pymachine"))
        texts = {text for text in names_in(path) if (own, text) not in NOT_A_DRIVER_NAME}
        leaks += [f"{own}: {text[:80]}" for text in texts if any(pattern.search(text) for pattern in patterns)]
    assert leaks == []


# Each group of modules may import those of its own group and of the groups above it in this list. A package stands for
# all of its modules, except where one of them is listed.
LAYERS = [
    {"errors", "system"},
    {"driver"},
    {"store", "gotemplate", "cli.shells"},
    {"tls", "ssh", "docker", "image", "provision", "registry_cache"},
    {"hosts"},
    {"cli"},
    {"__main__"},
]


def layer_entry(module: str) -> str:
    """Return the entry of LAYERS that a module of pymachine belongs to."""
    known = {name for names in LAYERS for name in names}
    parts = module.split(".")[1:]
    found = [".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in known]
    return found[0] if found else ""


def test_imports_between_packages_point_downwards() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    source = ROOT / "src"
    upwards = []
    for path in source.rglob("*.py"):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        own = layer_entry(module)
        if not own:
            assert path.name == "__init__.py", f"{module} is in no layer"
            continue
        for name in imported_modules(path):
            target = layer_entry(name) if name.startswith("pymachine.") else ""
            if target and level[target] > level[own]:
                upwards.append(f"{module} imports {name}")
    assert upwards == []


def modules() -> dict[str, Path]:
    """Return the modules of pymachine, by name."""
    source = ROOT / "src"
    return {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in source.rglob("*.py")
    }


def test_there_are_no_import_cycles() -> None:
    known = modules()
    arrows = {name: imported_modules(path) & known.keys() - {name} for name, path in known.items()}
    graphlib.TopologicalSorter(arrows).prepare()  # CycleError names the modules of a circle


@pytest.mark.parametrize("package", ["driver", "driver.kit"])
def test_the_modules_that_drivers_may_import_are_listed(package: str) -> None:
    folder = (ROOT / "src" / "pymachine").joinpath(*package.split("."))
    lines = re.findall(r"^- (.*):", (folder / "__init__.py").read_text(), re.MULTILINE)
    found = {path.stem for path in folder.iterdir()} - {"__init__", "__pycache__", "registry"}
    assert set(re.findall(r"`(\w+)`", " ".join(lines))) == found
