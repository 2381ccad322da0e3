"""``tools/install.py``: the choice of installer and of torch's build, and an environment in which ``swarmctl`` runs."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.command_line import ROOT
from tests.support.terminals import rest_of, spawn
from tools import install

UV = Path(sys.executable).parent / "uv"
BOTH = pytest.mark.parametrize("uv", [None, str(UV)], ids=["pip", "uv"])


def wheel(directory: Path, version: str, name: str = "torch") -> None:
    """Write an empty package of this version, as an index would offer it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    directory = tmp_path / "index"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def new_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new environment, which the installer has created without an index."""
    path = tmp_path_factory.mktemp("venv") / "venv"
    with pytest.MonkeyPatch.context() as patch:
        without_links(patch)
        assert install.Installer(path, str(UV), ["--no-index"]).create_venv()
    return path


def without_links(patch: pytest.MonkeyPatch) -> None:
    """Remove the variables with which uv finds packages outside of an index."""
    for name in ("UV_FIND_LINKS", "UV_INDEX"):
        patch.delenv(name, raising=False)


@pytest.fixture
def venv(new_venv: Path, tmp_path: Path) -> Path:
    """Return a copy of the new environment: to create one takes seconds."""
    return shutil.copytree(new_venv, tmp_path / "venv", symlinks=True)


def installer(venv: Path, uv: str | None, index: Path) -> install.Installer:
    """Return an installer that sees only the wheels in ``index``."""
    made = install.Installer(venv, uv, ["--no-index", "--find-links", str(index)])
    assert made.create_venv()
    return made


@pytest.mark.slow
@BOTH
def test_the_cpu_build_is_chosen_only_if_an_index_offers_it(
    uv: str | None, venv: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    made = installer(venv, uv, index)
    wheel(index, install.pinned_torch())
    assert made.cpu_build() is None
    wheel(index, f"{install.pinned_torch()}+cpu")
    assert made.cpu_build() == [f"torch=={install.pinned_torch()}+cpu"]


def test_the_pinned_torch_version_names_no_build() -> None:
    assert install.pinned_torch().replace(".", "").isdigit()


def test_a_gpu_is_found_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(install, "_DRIVER_FILES", (driver,))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not install.has_nvidia_gpu()
    driver.touch()
    assert install.has_nvidia_gpu()
    driver.unlink()
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    assert install.has_nvidia_gpu()


@pytest.mark.skipif(platform.system() != "Linux", reason="other systems have one build")
def test_the_size_of_the_download_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pip = install.Installer(tmp_path, None, [])
    install.announce(pip, ".venv", True, ["torch==1+cpu"])
    assert capsys.readouterr().out == "Installing into .venv with pip: about 0.5 GB to download.\n"
    install.announce(pip, ".venv", False, [])
    assert capsys.readouterr().out == (
        "Installing into .venv with pip: about 3 GB to download, most of it torch with CUDA.\n"
    )
    install.announce(pip, ".venv", True, [])
    # An additional index: PyTorch's has only what torch needs.
    assert capsys.readouterr().out.endswith(
        "No NVIDIA GPU was found, but no reachable package index offers torch without CUDA.\n"
        "For 0.5 GB: make run PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'\n"
    )
    install.announce(install.Installer(tmp_path, "uv", []), ".venv", True, [])
    assert "PIP_FLAGS='--find-links " in capsys.readouterr().out


@pytest.mark.slow
@BOTH
def test_it_installs_a_command_that_runs(
    uv: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Without the dependencies, which are gigabytes. The few that a fast command needs come from this environment.
    monkeypatch.setenv("PATH", f"{Path(uv).parent}:/usr/bin:/bin" if uv else "/usr/bin:/bin")
    # A copy, because setuptools leaves a directory ``build`` where it builds.
    copy = tmp_path / "copy"
    for name in ("swarmctl", "hivemind_exp"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    monkeypatch.setattr(install, "ROOT", copy)
    hashed = tmp_path / "requirements"
    hashed.mkdir()
    for name in ("torch", "base"):
        (hashed / f"{name}.txt").write_text("# nothing\n")
    shutil.copy(install.HASHED / "build.txt", hashed)
    monkeypatch.setattr(install, "HASHED", hashed)
    venv = tmp_path / "venv"
    assert install.main([str(venv), "--torch", "default", "--no-editable"]) == 0
    printed = capfd.readouterr().out
    assert f"with {'uv' if uv else 'pip'}:" in printed
    assert ("Compiling the installed packages" in printed) == bool(uv)
    assert list(venv.glob("lib/*/site-packages/swarmctl/__pycache__/cli.*.pyc")), "nothing was compiled"
    site = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    shown = subprocess.run(
        [venv / "bin" / "swarmctl", "profiles", "list"],
        env={"PYTHONPATH": site, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "demo" in shown


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("right", [True, False])
def test_a_package_with_another_hash_is_refused(
    uv: str | None, right: bool, venv: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    wheel(index, "9.9")
    digest = hashlib.sha256(next(index.iterdir()).read_bytes()).hexdigest() if right else "0" * 64
    monkeypatch.setattr(install, "HASHED", index)
    (index / "base.txt").write_text(f"torch==9.9 \\\n    --hash=sha256:{digest}\n")
    made = installer(venv, uv, index)
    assert (made._run([*made._install, "--no-deps", *install.hashed("base")]) == 0) == right


def test_every_package_is_pinned_with_hashes() -> None:
    pins = set((ROOT / "constraints.txt").read_text().splitlines()[1:])
    found = {}
    for name in ("build", "torch", "base", "extras"):
        _, *entries = re.split(r"^(?=[a-z0-9])", (install.HASHED / f"{name}.txt").read_text(), flags=re.MULTILINE)
        for entry in entries:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
            found[entry.split(maxsplit=1)[0]] = name
    assert set(found) == pins
    assert {found[f"torch=={install.pinned_torch()}"]} == {"torch"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [found[tool] for tool in project["build-system"]["requires"]] == ["build"]
    names = {pin.partition("==")[0] for pin in pins}
    more = [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    for line in [*project["project"]["dependencies"], *more]:
        assert re.match(r"[A-Za-z0-9-]+", line)[0].lower() in names  # type: ignore[index]


def test_an_environment_that_cannot_be_created_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    file = tmp_path / "file"
    file.touch()
    assert install.main([str(file / "venv")]) == install.CANNOT_START
    assert "error: cannot create a virtual environment" in capfd.readouterr().err


@pytest.mark.slow
def test_an_environment_gets_pip_without_an_index(new_venv: Path) -> None:
    assert subprocess.run([new_venv / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0


@pytest.mark.slow
def test_an_environment_needs_an_index_where_python_has_no_pip(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    without_links(monkeypatch)
    monkeypatch.setattr(install.importlib.util, "find_spec", {}.get)  # as on Debian without python3-venv
    made = install.Installer(tmp_path / "venv", str(UV), ["--no-index", "--find-links", str(index)])
    assert not made.create_venv()
    assert not made.venv.exists()
    assert "pip" in capfd.readouterr().err
    wheel(index, "9.9", "pip")
    assert made.create_venv()
    assert list(made.venv.glob("lib/*/site-packages/pip-9.9.dist-info"))


def test_uv_uses_the_indexes_that_are_set_for_pip() -> None:
    pips = {"PIP_INDEX_URL": "https://a/simple", "PIP_EXTRA_INDEX_URL": "https://b  https://c", "PIP_FIND_LINKS": "d e"}
    assert install.for_uv(pips) == (
        {"UV_DEFAULT_INDEX": "https://a/simple", "UV_INDEX": "https://b https://c", "UV_FIND_LINKS": "d,e"}
    )
    assert install.for_uv(pips | {"UV_INDEX_URL": "x", "UV_INDEX": "y", "UV_FIND_LINKS": ""}) == {}
    assert install.for_uv({"PIP_INDEX_URL": ""}) == {}


@pytest.mark.slow
def test_uv_finds_a_package_where_pip_would(new_venv: Path, index: Path) -> None:
    wheel(index, "1", name="only_here")
    python = str(new_venv / "bin/python")
    command = [str(UV), "pip", "install", "--offline", "--dry-run", "--python", python, "only-here"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    there = install.for_uv({"PIP_FIND_LINKS": str(index)})
    assert subprocess.run(command, env=environment, check=False).returncode != 0
    assert subprocess.run(command, env=environment | there, check=False).returncode == 0


def test_uv_trusts_the_systems_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saw: list[str | None] = []

    def create_venv(_self: install.Installer) -> bool:
        saw.append(os.environ.get("UV_SYSTEM_CERTS"))
        return False

    monkeypatch.setattr(install.Installer, "create_venv", create_venv)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for chosen in (None, "0"):
        if chosen is None:
            monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
        else:
            monkeypatch.setenv("UV_SYSTEM_CERTS", chosen)
        assert install.main([str(tmp_path)]) == install.CANNOT_START
    assert saw == ["1", "0"]


def test_ctrl_c_ends_the_installation_without_a_traceback(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho began\nexec sleep 600\n")
    program.chmod(0o755)
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").touch()
    child = spawn(
        [sys.executable, "tools/install.py", str(venv.parent), "--torch", "default"],
        environment=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
    )
    child.expect("began")
    child.sendintr()
    shown = rest_of(child)
    assert "Cancelled. To continue the installation: make run" in shown
    assert "Traceback" not in shown
    assert child.exitstatus == install.INTERRUPTED


PIP = """
print("Collecting torch==2.13.0")
print("  Downloading torch-2.13.0-py3-none-any.whl (181.2 MB)")
print("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)")
print("Installing collected packages: varint, prefetch_generator, six")
print("DEPRECATION: something nobody can change")
raise SystemExit(int(__import__("sys").argv[1]))
"""


def test_pips_output_is_summarized(capfd: pytest.CaptureFixture[str]) -> None:
    assert install.run_with_progress([sys.executable, "-c", PIP, "0"], "Starting pip") == 0
    shown = capfd.readouterr()
    assert shown.out == ("Starting pip\nDownloading torch-2.13.0 (181.2 MB)\nInstalling 3 packages\n")
    assert shown.err == ""
    assert install._step("  Building wheel for six (pyproject.toml): started\n") == "Building six"
    assert install._step("  Preparing metadata (pyproject.toml): finished with status 'done'\n") == "Building packages"
    assert install.run_with_progress([sys.executable, "-c", PIP, "1"], "Starting pip") == 1
    assert "DEPRECATION: something nobody can change" in capfd.readouterr().err
    assert install.run_with_progress([sys.executable, "-c", PIP, "1"], "Looking", may_fail=True) == 1
    assert capfd.readouterr().err == ""


def test_the_time_of_a_program_begins_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []
    monkeypatch.setattr(install, "_show", lambda _doing, began: shown.append(began))
    before = time.monotonic()
    assert install.run_with_progress([sys.executable, "-c", "print('Installing collected packages: a')"], "Start") == 0
    assert len(shown) == 2
    assert before <= shown[0] == shown[1], "not the time at which the installation began"


def test_on_a_terminal_one_line_shows_what_pip_does_and_for_how_long() -> None:
    command = (
        f"import sys; from tools.install import *; run_with_progress([sys.executable, '-c', {PIP!r}, '0'], 'Start')"
    )
    shown = rest_of(spawn([sys.executable, "-c", command], environment=os.environ | {"COLUMNS": "34"}))
    assert shown.startswith("\r\x1b[KStart; 0 s so far\r\x1b[K")  # before the program prints anything
    assert re.search(r"\x1b\[KDownloading six-1\.17\.; \d+ s so far", shown)  # cut, but not its time
    assert re.search(r"\x1b\[KInstalling 3 packages; \d+ s so far", shown)
    assert "\n" not in shown
    assert shown.endswith("\r\x1b[K")


@pytest.mark.slow
def test_a_failed_installation_is_reported(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PIP_FLAGS", "--no-index")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert install.main([str(venv), "--torch", "default"]) == install.FAILED
    assert "error: pip could not install swarmctl; its message is above\n  try: make run\n" in capfd.readouterr().err


def test_the_image_is_built_from_files_that_exist() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert set(copied) == allowed


def docker_works() -> bool:
    """Whether a Docker engine answers; its client alone cannot build."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not docker_works(), reason="needs a Docker engine")
def test_the_image_builds_and_trains_as_an_ordinary_user() -> None:
    subprocess.run(["docker", "build", "--quiet", "--tag", "swarmctl:test", str(ROOT)], check=True)
    run = ["docker", "run", "--rm", "--entrypoint", "/bin/sh", "swarmctl:test", "-c"]
    script = "id -u && swarmctl run --profile demo --rounds 2 --plain && ls /data/nodes/demo/checkpoints"
    printed = subprocess.run([*run, script], capture_output=True, text=True, check=True).stdout.split()
    assert printed[0] == "1000"
    assert printed[-1] == "00000002"
