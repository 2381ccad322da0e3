"""``swarmctl export``: a directory with a trained model, for other programs."""

import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.tasks.base import Question
from hivemind_exp.trainer.checkpoints import MODEL
from swarmctl.errors import UsageError
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import size
from swarmctl.terminal.views import Writer
from swarmctl.trained.process import model_process
from swarmctl.trained.target import ModelOptions, TrainedNode, trained_node

_TINY = "tiny"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The command line of ``export``."""

    directory: Path
    merge: bool
    ollama: bool
    as_json: bool


def export(model: ModelOptions, options: ExportOptions) -> None:
    """Write the directory, whole or not at all. Raises ``NodeError``."""
    node = trained_node(model)
    target = options.directory.expanduser().absolute()
    adapters = node.config.model.lora is not None and not options.merge
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{shown(target)} already exists", next=shlex.join(["ls", str(target)]))
    merging = shlex.join(["swarmctl", "export", model.node, str(options.directory), "--merge"])
    if adapters and options.ollama:
        raise ConfigurationError("--ollama needs a whole model; merge the adapters into it", next=merging + " --ollama")
    if adapters and node.config.model.name == _TINY:
        raise ConfigurationError("no other program has the tiny model that these adapters are for", next=merging)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as staging:
            made = Path(staging) / target.name
            made.mkdir()
            _fill(node, made, merge=options.merge, quiet=options.as_json)
            if options.ollama:
                (made / "Modelfile").write_text(_modelfile(node), encoding="utf-8")
            if target.exists():
                target.rmdir()
            made.rename(target)
    _report(node, target, adapters=adapters, options=options)


def _fill(node: TrainedNode, directory: Path, *, merge: bool, quiet: bool) -> None:
    assert node.checkpoint is not None
    if node.config.model.lora is None or not merge:
        shutil.copytree(node.checkpoint.path / MODEL, directory, dirs_exist_ok=True)
        return
    with model_process("merge", node, quiet=quiet, directory=str(directory)) as process:
        for _ in process.events():
            pass


def _modelfile(node: TrainedNode) -> str:
    """Return what Ollama creates a model from: the weights, the node's instruction and its sampling."""
    generation, style = node.config.generation, node.style
    lines = ["FROM ."]
    if style.system and style.form != "plain" and not style.examples:
        first, *_ = ChatBuilder(style).chat(Question("", "heldout", 0, 0, "", {}, "", ""))
        lines.append(f'SYSTEM """{first["content"]}"""')
    lines += [f"PARAMETER temperature {generation.temperature:g}", "PARAMETER top_k 0", "PARAMETER top_p 1"]
    return "\n".join([*lines, f"PARAMETER num_predict {generation.max_completion_tokens}", ""])


def _report(node: TrainedNode, target: Path, *, adapters: bool, options: ExportOptions) -> None:
    amount = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    kind = "adapters" if adapters else "model"
    if options.as_json:
        name = node.files.root.name
        print_json(node=name, checkpoint=node.at(), directory=str(target), kind=kind, bytes=amount)
        return
    say = Writer(sys.stdout)
    base = f" for {node.config.model.name}; --merge writes a whole model" if adapters else ""
    say(f"Exported the {kind} of node {node.files.root.name} {node.when}{base}: {shown(target)} ({size(amount)}).")
    if options.ollama:
        say("Create the model in Ollama:")
        say(f"  ollama create {shlex.quote(node.files.root.name)} -f {shlex.quote(str(target / 'Modelfile'))}")
    else:
        say("Load it in Python:")
        say(f"  transformers.AutoModelForCausalLM.from_pretrained({str(target)!r})")
