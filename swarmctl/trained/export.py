"""``swarmctl export``: a directory with a trained model, for other programs."""

import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.tasks.base import Question
from hivemind_exp.trainer.checkpoints import MODEL
from swarmctl.errors import UsageError
from swarmctl.paths import shown
from swarmctl.run.trainer_process import environment
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.staging import staged
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.options import GgufType
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import size
from swarmctl.terminal.views import Writer
from swarmctl.trained.gguf import write_gguf
from swarmctl.trained.gguf_converter import find_converter
from swarmctl.trained.merge import merge
from swarmctl.trained.pinned_checkpoint import pinned_checkpoint
from swarmctl.trained.target import ModelOptions, TrainedNode, trained_node

_TINY = "tiny"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The command line of ``export``."""

    directory: Path
    merge: bool
    gguf: GgufType | None
    """The type of the GGUF file to write instead of a directory for ``from_pretrained``."""
    ollama: bool
    as_json: bool
    yes: bool
    no_input: bool


def export(model: ModelOptions, options: ExportOptions) -> None:
    """Write the directory, whole or not at all. Raises ``NodeError``."""
    with pinned_checkpoint(trained_node(model)) as node:
        _export(node, model, options)


def _export(node: TrainedNode, model: ModelOptions, options: ExportOptions) -> None:
    target = options.directory.expanduser().absolute()
    adapters = node.config.model.lora is not None and not options.merge and options.gguf is None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        names = (options.directory.parent / f"{target.name}-{number}" for number in range(2, 10_000))
        free = next(path for path in names if not path.expanduser().exists())
        raise UsageError(f"{shown(target)} already exists", next=_typed(model, replace(options, directory=free)))
    _check(node, model, options, adapters=adapters)
    converter = None
    if options.gguf is not None:
        converter = find_converter(
            Prompter(yes=options.yes, silent=options.no_input or options.as_json),
            environment(node.config),
            retry=_typed(model, options, "--yes"),
            instead=_instead(node, model, options),
        )
    file = None if options.gguf is None else f"{node.files.root.name}.gguf"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged(target) as staging:
            made = staging / target.name
            made.mkdir()
            if converter is None or options.gguf is None or file is None:
                _fill(node, made, merged=options.merge, quiet=options.as_json)
            else:
                write_gguf(
                    node,
                    converter,
                    made / file,
                    options.gguf,
                    Path(tempfile.mkdtemp(dir=staging)),
                    quiet=options.as_json,
                    instead=_instead(node, model, options),
                )
            if options.ollama:
                (made / "Modelfile").write_text(_modelfile(node, file), encoding="utf-8")
            if target.exists():
                target.rmdir()
            made.rename(target)
    _report(node, target, file, adapters=adapters, options=options)


def _check(node: TrainedNode, model: ModelOptions, options: ExportOptions, *, adapters: bool) -> None:
    """Raise ConfigurationError for what no other program could load."""
    tiny = node.config.model.name == _TINY
    merging = _typed(model, replace(options, merge=True))
    if adapters and options.ollama:
        raise ConfigurationError("--ollama needs a whole model; merge the adapters into it", next=merging)
    if adapters and tiny:
        raise ConfigurationError(
            "these adapters are for the demo's tiny model, which no other program has", next=merging
        )
    if tiny and (options.gguf is not None or options.ollama):
        whole = replace(options, gguf=None, ollama=False, merge=node.config.model.lora is not None)
        raise ConfigurationError(
            "the demo's tiny model cannot be converted to GGUF: llama.cpp and Ollama do not support its tokenizer",
            next=_typed(model, whole),
        )


def _typed(model: ModelOptions, options: ExportOptions, *more: str) -> str:
    """Return the command as it was typed, and ``more``."""
    words = ["swarmctl", "export", model.node, str(options.directory)]
    words += [] if model.checkpoint is None else ["--checkpoint", str(model.checkpoint)]
    flags = {"--merge": options.merge, "--gguf": options.gguf == GgufType.F16, "--ollama": options.ollama}
    words += [flag for flag, given in flags.items() if given]
    words += [] if options.gguf in (None, GgufType.F16) else ["--gguf-type", str(options.gguf)]
    return shlex.join([*words, *more])


def _instead(node: TrainedNode, model: ModelOptions, options: ExportOptions) -> str:
    """Return the command that writes a directory for ``from_pretrained`` instead of a GGUF file."""
    return _typed(model, replace(options, gguf=None, merge=node.config.model.lora is not None))


def _fill(node: TrainedNode, directory: Path, *, merged: bool, quiet: bool) -> None:
    assert node.checkpoint is not None
    if node.config.model.lora is None or not merged:
        shutil.copytree(node.checkpoint.path / MODEL, directory, dirs_exist_ok=True)
    else:
        merge(node, directory, quiet=quiet)


def _modelfile(node: TrainedNode, file: str | None) -> str:
    """Return what Ollama creates a model from: the weights, the node's instruction and its sampling."""
    generation, style = node.config.generation, node.style
    lines = ["FROM ." if file is None else f"FROM ./{file}"]
    if style.system and style.form != "plain" and not style.examples:
        first, *_ = ChatBuilder(style).chat(Question("", "heldout", 0, 0, "", {}, "", ""))
        lines.append(f'SYSTEM """{first["content"]}"""')
    lines += [f"PARAMETER temperature {generation.temperature:g}", "PARAMETER top_k 0", "PARAMETER top_p 1"]
    return "\n".join([*lines, f"PARAMETER num_predict {generation.max_completion_tokens}", ""])


def _report(node: TrainedNode, target: Path, file: str | None, *, adapters: bool, options: ExportOptions) -> None:
    amount = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    kind = "adapters" if adapters else "model"
    made = target if file is None else target / file
    if options.as_json:
        name, gguf = node.files.root.name, None if file is None else str(made)
        print_json(node=name, checkpoint=node.at(), directory=str(target), gguf=gguf, kind=kind, bytes=amount)
        return
    say = Writer(sys.stdout)
    base = f" for {node.config.model.name}; --merge writes a whole model" if adapters else ""
    say(f"Exported the {kind} of node {node.files.root.name} {node.when}{base}: {shown(made)} ({size(amount)}).")
    if options.ollama:
        say("Create the model in Ollama:")
        say(f"  ollama create {shlex.quote(node.files.root.name)} -f {shlex.quote(str(target / 'Modelfile'))}")
    elif file is not None:
        say("Chat with it in llama.cpp:")
        say(f"  llama-cli -m {shlex.quote(str(made))}")
    else:
        say("Load it in Python:")
        say(f"  transformers.AutoModelForCausalLM.from_pretrained({str(target)!r})")
