"""Plug-in programs: how they are found, the options of their flags, and their configuration as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.contract import Trait
from pymachine.driver.errors import DriverNotFoundError
from pymachine.driver.options import Option, OptionKind
from pymachine_driver_plugin import allowed, flags, gojson, known, programs
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.finder import Finder
from pymachine_driver_plugin.gob.types import Interface


def flag(kind: str = "mcnflag.StringFlag", **fields: Any) -> Interface:
    return Interface(f"*{kind}", {"Name": "x-name", "Usage": "Help", "EnvVar": "", "Value": "", **fields})


class TestFlags:
    def test_all_four_kinds_become_options(self) -> None:
        found = flags.options(
            [
                flag(Name="x-url", Usage="The URL\n of it", EnvVar="X_URL", Value="file:///x"),
                flag("mcnflag.IntFlag", Name="x-memory", Value=-5),
                flag("mcnflag.StringSliceFlag", Name="x-tag", Value=["a", "b"]),
                Interface("*mcnflag.BoolFlag", {"Name": "x-fast", "Usage": "", "EnvVar": "X_FAST"}),
            ]
        )
        assert found == [
            Option(name="x-url", default="file:///x", env="X_URL", help="The URL of it"),
            Option(name="x-memory", kind=OptionKind.INTEGER, default=-5, help="Help"),
            Option(name="x-tag", kind=OptionKind.STRINGS, default=("a", "b"), help="Help"),
            Option(
                name="x-fast",
                kind=OptionKind.BOOLEAN,
                default=False,
                env="X_FAST",
                help="See the program's documentation",
            ),
        ]

    def test_a_fork_may_have_another_package_of_flags(self) -> None:
        assert flags.options([flag("mflag.StringFlag")])[0].kind is OptionKind.STRING

    def test_of_several_variables_the_one_with_a_value_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        two = flag(EnvVar="X_FIRST, X_SECOND")
        assert flags.options([two])[0].env == "X_FIRST"
        monkeypatch.setenv("X_SECOND", "1")
        assert flags.options([two])[0].env == "X_SECOND"

    @pytest.mark.parametrize(
        ("name", "is_secret"),
        [
            *(("amazonec2-secret-key", True), ("hetzner-api-token", True), ("vsphere-password", True)),
            *(("azure-client-secret", True), ("amazonec2-access-key", True), ("x-ssh-keypath", False)),
            *(("linode-root-pass", True), ("google-auth-encoded-json", True), ("ovh-consumer-key", True)),
            *(("x-region", False), ("amazonec2-keypair-name", False), ("x-compass", False)),
        ],
    )
    def test_secrets_are_known_by_their_names(self, name: str, is_secret: bool) -> None:
        assert flags.options([flag(Name=name)])[0].is_secret is is_secret

    @pytest.mark.parametrize(
        "wrong",
        [
            None,
            "text",
            flag("mcnflag.MapFlag"),
            Interface("*mcnflag.StringFlag", 5),
            flag(Name=""),
            flag(Name="-x"),
            flag(Name="a b"),
            flag(Name="x" * 101),
            flag(Usage=5),
            flag(Value=5),
            flag("mcnflag.IntFlag", Value="5"),
            flag("mcnflag.StringSliceFlag", Value=[1]),
        ],
    )
    def test_impossible_flags_are_refused(self, wrong: Any) -> None:
        with pytest.raises(PluginError, match="the program"):
            flags.options([wrong])

    def test_flags_that_differ_only_in_dashes_are_refused(self) -> None:
        with pytest.raises(PluginError, match="two flags called --x_name"):
            flags.options([flag(Name="x-name"), flag(Name="x_name")])

    def test_the_help_has_nothing_that_a_terminal_obeys(self) -> None:
        (option,) = flags.options([flag(Usage="a\x1b[2Jb", Value="c\x1b[2Jd")])
        assert (option.help, option.default, option.default_text) == ("a [2Jb", "c\x1b[2Jd", "c [2Jd")

    def test_a_flood_of_flags_is_refused(self) -> None:
        with pytest.raises(PluginError, match="1001 flags"):
            flags.options([flag(Name=f"x{number}") for number in range(1001)])

    def test_all_values_have_the_types_of_go(self) -> None:
        options = [
            Option(name="x-url"),
            Option(name="x-memory", kind=OptionKind.INTEGER, default=5),
            Option(name="x-tag", kind=OptionKind.STRINGS, default=("a",)),
            Option(name="x-fast", kind=OptionKind.BOOLEAN),
        ]
        values = flags.values(options, {"x-memory": 7, "x-tag": ("b", "c"), "other": 1})
        assert {name: (each.name, each.value) for name, each in values.items()} == {
            "x-url": ("string", ""),
            "x-memory": ("int", 7),
            "x-tag": ("[]string", ["b", "c"]),
            "x-fast": ("bool", False),
            # Those of docker-machine itself that its base driver reads.
            "swarm-master": ("bool", False),
            "swarm-host": ("string", "tcp://0.0.0.0:3376"),
            "swarm-discovery": ("string", ""),
        }

    def test_the_flag_for_the_image_is_found(self) -> None:
        options = [Option(name="x-url"), Option(name="x-boot2docker-url")]
        assert flags.iso_option(options) == "x-boot2docker-url"
        assert flags.iso_option(options[:1]) == ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    return tmp_path


def program(path: Path, text: str = "\x7fELF") -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class TestFinder:
    def test_a_program_of_the_drivers_name_comes_first(self, folder: Path) -> None:
        own, many = program(folder / "docker-machine-driver-azure"), program(folder / "docker-machine")
        assert [each.path for each in programs.candidates("azure")] == [own, many]
        found = Finder().find("azure", "")
        assert found is not None
        assert found.info.name == "azure"
        assert found.info.traits == Trait.PROVISION | Trait.FOREIGN_CONFIG
        assert found.program == ""

    def test_the_named_program_comes_before_others_with_built_in_drivers(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = program(tmp_path_factory.mktemp("opt") / "rancher-machine")
        program(folder / "docker-machine")
        monkeypatch.setenv(programs.VARIABLE, str(elsewhere))
        found = Finder().find("azure", "")
        assert found is not None
        assert found.program == str(elsewhere)

    def test_a_driver_that_was_given_up_is_found_in_its_successor(self, folder: Path) -> None:
        program(folder / "docker-machine-driver-vmware")
        found = Finder().find("vmwarefusion", "")
        assert found is not None
        assert found.info.name == "vmware"

    @pytest.mark.parametrize(
        "text",
        [
            "#!/usr/bin/python3\nfrom pymachine.__main__ import main\n",
            '#!/bin/sh\nexec pymachine "$@"\n',
            "#!/opt/pymachine/bin/python\n",
        ],
    )
    def test_pymachine_under_docker_machines_name_is_not_a_program(self, folder: Path, text: str) -> None:
        program(folder / "docker-machine", text)
        assert list(programs.candidates("azure")) == []
        assert Finder().names() == []

    def test_a_real_docker_machine_behind_pymachine_on_path_is_found(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(folder / "docker-machine", "#!/usr/bin/python3\nimport pymachine\n")
        real = program(tmp_path_factory.mktemp("bin") / "docker-machine")
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{real.parent}")
        assert [each.path for each in programs.candidates("azure")] == [real]

    def test_names_are_those_of_programs_and_of_built_in_drivers(self, folder: Path) -> None:
        program(folder / "docker-machine-driver-hetzner")
        (folder / "docker-machine-driver-text").write_text("not executable")
        (folder / "docker-machine-driver-folder").mkdir()
        assert Finder().names() == ["hetzner"]
        program(folder / "rancher-machine")
        assert set(Finder().names()) == {"hetzner", *known.built_in("rancher-machine")}

    @pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "ü", "x\n"])
    def test_odd_names_are_not_looked_for(self, folder: Path, name: str) -> None:
        assert Finder().find(name, "") is None

    def test_a_recorded_program_that_is_gone_is_reported_or_replaced(self, folder: Path) -> None:
        gone = r"the program /nowhere/docker-machine, which .* cannot be used"
        with pytest.raises(DriverNotFoundError, match=gone):
            Finder().find("azure", "/nowhere/docker-machine")
        script = program(folder / "docker-machine", "#!/bin/sh\npymachine\n")
        with pytest.raises(DriverNotFoundError):
            Finder().find("azure", str(script))
        program(folder / "docker-machine-driver-azure")
        assert Finder().find("azure", "/nowhere/docker-machine") is not None

    def test_a_recorded_program_is_used_once_the_user_has_named_it(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        chosen = program(tmp_path_factory.mktemp("opt") / "docker-machine")
        with pytest.raises(DriverNotFoundError, match="cannot be used"):
            Finder().find("azure", str(chosen))
        allowed.allow(chosen)
        allowed.allow(chosen)
        assert allowed.path().read_text() == f"{chosen}\n"
        assert allowed.path().stat().st_mode & 0o777 == 0o600
        found = Finder().find("azure", str(chosen))
        assert found is not None
        assert found.program == str(chosen)

    def test_folders_of_path_that_depend_on_the_current_one_are_not_searched(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(folder / "docker-machine-driver-azure")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}bin")
        assert Finder().find("azure", "") is None
        assert Finder().names() == []

    @pytest.mark.parametrize("name", ["vmwarefusion", "vmware", "parallels", "hyperv", "xhyve", "kvm2", "amazonec2"])
    def test_the_program_of_a_known_driver_is_named(self, name: str) -> None:
        assert "docker-machine" in Finder().advice(name)
        assert "GitHub" in Finder().advice(name)

    def test_nothing_is_said_of_unknown_drivers(self) -> None:
        assert Finder().advice("bogus") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, {}]}, '{"b":1,"a":[true,null,{}]}'),
        ("a <b> & \u2028\u2029 für ☃", r'"a \u003cb\u003e \u0026 \u2028\u2029 für ☃"'),
        (2**63 - 1, "9223372036854775807"),
        (1.5e-7, "1.5e-7"),
        (1e-5, "0.00001"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-0.25, "-0.25"),
        (0.0, "0"),
    ],
)
def test_json_is_as_go_writes_it(value: Any, text: str) -> None:
    assert gojson.encode(value).decode() == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not a number in JSON|surrogates not allowed"):
        gojson.encode([value])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_keeps_all_values(value: Any) -> None:
    # Large floats have no exponent in Go, as integers have none.
    expected = json.loads(json.dumps(value), parse_int=float)
    assert json.loads(gojson.encode(value), parse_int=float) == expected


def test_the_finder_imports_little() -> None:
    """It runs whenever a driver is unknown, as in completion."""
    assert "pymachine_driver_plugin.driver" not in _modules_of("pymachine_driver_plugin.finder")


def _modules_of(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())
