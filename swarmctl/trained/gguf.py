"""Write a trained model as one GGUF file, which llama.cpp, Ollama and other programs load."""

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from errno import ENOSPC
from pathlib import Path

from hivemind_exp.errors import ModelError, NodeError, OutOfMemory
from hivemind_exp.foreign_text import foreign
from hivemind_exp.trainer.checkpoints import MODEL
from swarmctl.storage.disk_errors import explained
from swarmctl.storage.hub_cache import local_directory, snapshot
from swarmctl.terminal.options import GgufType
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting
from swarmctl.trained.gguf_converter import TITLE, Converter, Failed
from swarmctl.trained.merge import merge
from swarmctl.trained.target import TrainedNode

_SPM = "tokenizer.model"
"""SentencePiece's file. transformers does not save it, but the converter needs it for some families, such as Gemma."""
_WEIGHTS = re.compile(r".*\.(safetensors|bin|index\.json)")
_UNKNOWN_MODEL = re.compile(r"Model (\S+) is not supported")
_UNKNOWN_TOKENIZER = "pre-tokenizer was not recognized"


def write_gguf(
    node: TrainedNode, converter: Converter, target: Path, kind: GgufType, staging: Path, *, quiet: bool, instead: str
) -> None:
    """Write ``target``. ``staging`` is an empty directory for intermediate files, as large as the model in float32.

    ``instead``: the command to suggest if the model cannot be converted. Raises ModelError, DiskFull or OutOfMemory.
    """
    assert node.checkpoint is not None
    saved, base = node.checkpoint.path / MODEL, _base(node)
    options = ["--outtype", kind.value, "--model-name", node.files.root.name]
    try:
        if node.config.model.lora is not None:
            if base is not None:
                # Merging takes long and much space, so what cannot be converted is found first.
                tried = _linked(saved, staging / "tried", base, weights=False)
                with _shown("checking that the model can be converted", quiet):
                    converter.run(str(tried), "--vocab-only", "--outfile", str(staging / "vocabulary.gguf"), *options)
            saved = staging / "merged"
            saved.mkdir()
            merge(node, saved, quiet=quiet)
        whole = _linked(saved, staging / "model", base)
        with _shown(f"writing {target.name}", quiet):
            converter.run(str(whole), "--outfile", str(target), *options)
    except Failed as error:
        raise _explained(error, node, target, instead) from error


@contextmanager
def _shown(what: str, quiet: bool) -> Iterator[None]:
    """Print what is done during the block, and for how long it has been done, unless ``quiet``."""
    say = Writer(sys.stderr)
    if not quiet:
        say(f"{what[:1].upper()}{what[1:]}.")
    with nullcontext() if quiet else waiting(say, what):
        yield


def _base(node: TrainedNode) -> Path | None:
    """Return the directory of the model before training, if it is on this machine."""
    name = node.config.model.name
    found = local_directory(name) or snapshot(os.environ, name, node.config.model.revision)
    return found if found is not None and (found / "config.json").is_file() else None


def _linked(saved: Path, directory: Path, base: Path | None, *, weights: bool = True) -> Path:
    """Create ``directory`` with links to the files of ``saved`` and to what it lacks of ``base``."""
    directory.mkdir()
    files = {path.name: path for path in saved.iterdir() if weights or not _WEIGHTS.fullmatch(path.name)}
    if base is not None:
        files |= {name: base / name for name in ("config.json", _SPM) if name not in files and (base / name).is_file()}
    for name, path in files.items():
        if name in ("config.json", "tokenizer_config.json"):
            settings = json.loads(path.read_text(encoding="utf-8"))
            # It names code in the model's repository, which the converter would run and swarmctl never does.
            settings.pop("auto_map", None)
            (directory / name).write_text(json.dumps(settings), encoding="utf-8")
        else:
            (directory / name).symlink_to(path.resolve())
    return directory


def _explained(error: Failed, node: TrainedNode, target: Path, instead: str) -> NodeError:
    model = node.config.model.name
    if error.disk_full:
        return explained(OSError(ENOSPC, os.strerror(ENOSPC)), target, "write")
    if error.code == -signal.SIGKILL:
        return OutOfMemory(f"{TITLE} was killed, probably because memory ran out", next=instead)
    if (unknown := _UNKNOWN_MODEL.search(error.output)) is not None:
        return ModelError(f"{TITLE} does not support models like {model} ({foreign(unknown[1])})", next=instead)
    if _UNKNOWN_TOKENIZER in error.output:
        return ModelError(f"{TITLE} does not support the tokenizer of {model}", next=instead)
    if error.output.rstrip().endswith(_SPM):
        missing = f"{TITLE} needs the file {_SPM} of {model}, which is not on this machine"
        revision = node.config.model.revision
        hub = str(Path(sys.executable).with_name("hf"))  # may not be on PATH
        download = [hub, "download", model, _SPM, *(["--revision", revision] if revision else [])]
        return ModelError(missing, next=instead if local_directory(model) else shlex.join(download))
    return ModelError(f"cannot convert {model} to GGUF: {error.last}", next=instead)
