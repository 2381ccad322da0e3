"""The python checks against fake installations in temporary directories."""

from __future__ import annotations

import importlib.metadata
import re
import site
import sys
import tomllib
from pathlib import Path

import pytest

from swarmctl.doctor.check import Status
from swarmctl.doctor.checks import installation
from swarmctl.doctor.checks.installation import DECISIVE, PINS
from tests.support.command_line import ROOT
from tests.support.doctor import make


def distribution(place: Path, name: str, version: str, *, lost: bool = False) -> Path:
    """Create a package with one module and the metadata that pip records; ``lost``: without the module."""
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    module = f"{name.replace('-', '_')}_module.py"
    (info / "RECORD").write_text(f"{module},sha256=x,1\n{info.name}/METADATA,,\n")
    if not lost:
        (place / module).write_text("")
    return info


def test_pins_match_the_project_files() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = dict(re.match(r"([A-Za-z0-9-]+)(?:\[.*\])?(.*)", line).groups() for line in declared)  # type: ignore[union-attr,misc]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    assert {name: (accepted, tested[name]) for name, accepted in ranges.items()} == PINS
    assert set(DECISIVE) <= set(PINS)


def test_this_installation_passes() -> None:
    for check in (installation.version, installation.whole):
        assert check(make()).status is Status.OK


@pytest.mark.parametrize(
    ("versions", "status", "told"),
    [
        (
            {name: tested for name, (_, tested) in PINS.items()},
            Status.OK,
            f"all {len(PINS)} libraries have supported versions",
        ),
        ({"trl": "1.15.2"}, Status.FAILED, "trl 1.15.2 (needs >=1.16,<1.17)"),
        ({"hivemind": None}, Status.FAILED, "missing: hivemind"),
        ({"torch": "2.9.1+cu128"}, Status.WARNING, "torch 2.9.1+cu128 (tested 2.13.0)"),
        ({"rich": "14.2"}, Status.OK, "supported versions"),
    ],
)
def test_versions(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], status: Status, told: str) -> None:
    def installed(name: str) -> str:
        version = versions.get(name, PINS[name][1])
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    found = installation.libraries(make())
    assert found.status is status
    assert told in found.text
    if status is not Status.OK:
        (name,) = versions
        assert f"{name}=={PINS[name][1]}" in (found.remedy or "")


def test_a_lost_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "trl", "1.16.0", lost=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installation.whole(make())
    assert found.status is Status.FAILED
    assert found.text == "missing files: trl (1)"
    assert "trl==1.16.0" in (found.remedy or "")


def test_leftovers_of_an_interrupted_pip_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "~orch").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installation.whole(make())
    assert found.status is Status.WARNING
    assert str(tmp_path / "~orch") in (found.remedy or "")


def test_two_copies_of_one_library_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    assert installation.mixed(make()).status is Status.OK
    distribution(tmp_path, "torch", "2.8.0+cu128")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installation.mixed(make())
    assert found.status is Status.FAILED
    assert "torch installed more than once: torch 2.13" in found.text
    assert "2.8.0+cu128" in found.text


def test_user_site_libraries_mixed_with_the_environment_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, own = tmp_path / "user", tmp_path / "own"
    distribution(user, "trl", "1.16.0")
    distribution(own, "torch", "2.13.0")
    monkeypatch.setattr(sys, "path", [str(user), str(own)])
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(user))
    found = installation.mixed(make())
    assert found.status is Status.WARNING
    assert found.text.startswith("libraries from two places: trl from ")
    assert "PYTHONNOUSERSITE=1" in (found.remedy or "")


@pytest.mark.parametrize(("name", "cure"), [("PYTHONPATH", "unset PYTHONPATH"), ("VIRTUAL_ENV", "deactivate")])
def test_another_active_environment_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, cure: str
) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH"):
        monkeypatch.delenv(variable, raising=False)
    found = installation.mixed(make(environment={name: str(tmp_path)}))
    assert (found.status, found.remedy) == (Status.WARNING, cure)


def test_torchs_build_is_read_without_importing_it() -> None:
    import torch

    assert installation.torch_build() == (torch.__version__, torch.version.cuda, torch.version.hip)


@pytest.mark.parametrize(("version", "status"), [((3, 10, 4), Status.FAILED), ((3, 99, 0), Status.WARNING)])
def test_python_version_is_checked(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], status: Status
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert installation.version(make()).status is status
