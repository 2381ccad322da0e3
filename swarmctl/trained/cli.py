"""``swarmctl sample``, ``chat``, ``eval``, ``export`` and ``replay``."""

from pathlib import Path
from typing import Annotated

import typer

from swarmctl.errors import Exit
from swarmctl.terminal import options

Node = Annotated[str, typer.Argument(metavar="NODE", help="Node name.")]
Checkpoint = Annotated[
    int | None, typer.Option("--checkpoint", min=0, metavar="STEP", help="Checkpoint to use. [default: the newest]")
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System prompt; empty for none. [default: the node's instruction]"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of sampling.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, metavar="N", help="Maximum tokens per answer. [default: the node's setting]"),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps or xpu. [default: the node's]"),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def sample(
        node: Node,
        prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="Your own prompt.")] = None,
        *,
        checkpoint: Checkpoint = None,
        last: Annotated[bool, typer.Option("--last", help="Repeat the latest PROMPT.")] = False,
        base: Annotated[
            bool, typer.Option("--base", help="With a prompt: also show the answer before training.")
        ] = False,
        questions: Annotated[
            int | None,
            typer.Option("-n", "--questions", min=1, metavar="N", help="Number of held-out questions. [default: 3]"),
        ] = None,
        system: System = None,
        temperature: Annotated[
            float,
            typer.Option(
                "--temperature",
                min=0,
                max=2,
                metavar="T",
                help="Sampling temperature; 0 always picks the most likely token.",
            ),
        ] = 0.0,
        seed: Seed = 0,
        max_tokens: MaxTokens = None,
        device: Device = None,
        json: options.Json = False,
    ) -> int:
        """Show what a node's model answers.

        Without PROMPT, the model answers questions of its tasks that it was never trained on, before and after
        training. --last repeats your latest prompt, to see what the model answers now. The node can be running.

        \b
        Examples:
          swarmctl sample maths
          swarmctl sample maths "What is 17 * 3?" --base
          swarmctl sample maths --last
          swarmctl sample maths --checkpoint 40 -n 10
          swarmctl sample maths --json
        """
        from swarmctl.trained.sample import SampleOptions
        from swarmctl.trained.sample import sample as show
        from swarmctl.trained.target import ModelOptions

        model = ModelOptions(node, checkpoint, False, temperature, max_tokens, device)
        show(model, SampleOptions(prompt, last, questions, base, system, seed, json))
        return Exit.DONE

    @app.command()
    def chat(
        node: Node,
        *,
        checkpoint: Checkpoint = None,
        base: Annotated[bool, typer.Option("--base", help="Talk to the model before training.")] = False,
        system: System = None,
        temperature: Annotated[
            float | None,
            typer.Option(
                "--temperature",
                min=0,
                max=2,
                metavar="T",
                help="Sampling temperature; 0 always picks the most likely token. [default: the node's setting]",
            ),
        ] = None,
        seed: Seed = 0,
        max_tokens: MaxTokens = None,
        device: Device = None,
        json: Annotated[
            bool,
            typer.Option("--json", help="Print one JSON line per answer, for scripts."),
        ] = False,
    ) -> int:
        """Chat with a node's model.

        When the conversation no longer fits into the model's context, the oldest turns are dropped. Ctrl-C stops an
        answer. /exit or Ctrl-D ends the chat. The node can be running.

        With --json, each line of standard input is a message. A message with line breaks is written as a JSON string.

        \b
        Examples:
          swarmctl chat maths
          swarmctl chat maths --base
          swarmctl chat maths --system "" --temperature 0.7
          swarmctl chat maths --json < messages.txt
        """
        from swarmctl.trained.chat import chat as talk
        from swarmctl.trained.target import ModelOptions

        model = ModelOptions(node, checkpoint, base, temperature, max_tokens, device, "chat")
        return talk(model, system=system, seed=seed, as_json=json)

    @app.command("eval")
    def evaluate(
        target: Annotated[str, typer.Argument(metavar="NODE|MODEL|PROVIDER:MODEL", help="What to evaluate.")],
        *,
        against: Annotated[
            str | None,
            typer.Option("--against", metavar="TARGET", help="Compare with this; base: the node before training."),
        ] = None,
        task: Annotated[
            list[str] | None,
            typer.Option("--task", metavar="TASK", help="Questions of this task. [default: those that NODE holds out]"),
        ] = None,
        questions: Annotated[
            int, typer.Option("-n", "--questions", min=1, metavar="N", help="Number of questions.")
        ] = 200,
        k: Annotated[int, typer.Option("-k", min=1, metavar="K", help="Also report pass@K.")] = 1,
        samples: Annotated[
            int | None, typer.Option("--samples", min=1, metavar="N", help="Answers per question. [default: K]")
        ] = None,
        checkpoint: Checkpoint = None,
        base: Annotated[bool, typer.Option("--base", help="Evaluate NODE's model before training.")] = False,
        temperature: Annotated[
            float | None,
            typer.Option(
                "--temperature",
                min=0,
                max=2,
                metavar="T",
                help="Sampling temperature. [default: the node's setting; 0 with --samples 1]",
            ),
        ] = None,
        max_tokens: MaxTokens = None,
        device: Device = None,
        profile: options.Profile = None,
        max_usd: Annotated[
            str | None,
            typer.Option("--max-usd", metavar="USD", help="The most this evaluation may spend, or unlimited."),
        ] = None,
        examples: Annotated[
            int, typer.Option("--examples", min=0, metavar="N", help="Also show the first N questions and answers.")
        ] = 0,
        json: options.JsonAskingNothing = False,
        yes: options.Yes = False,
        no_input: options.NoInput = False,
    ) -> int:
        """Measure how often a model answers correctly.

        Asks the questions that a node holds out from training, or questions of --task, which are the same for every
        model. Intervals have 95 % confidence. Answers are saved: after Ctrl-C, the same command continues, and an API
        is not paid twice.

        \b
        Examples:
          swarmctl eval maths --against base
          swarmctl eval maths -k 8 --examples 3
          swarmctl eval maths --against openai:gpt-6-luna --max-usd 1
          swarmctl eval Qwen/Qwen2.5-0.5B-Instruct --task gsm8k --json
        """
        from swarmctl.trained.evaluated import EvalOptions
        from swarmctl.trained.evaluation import evaluate as run
        from swarmctl.trained.target import ModelOptions

        return run(
            EvalOptions(
                target=target,
                against=against,
                tasks=tuple(task or ()),
                questions=questions,
                k=k,
                samples=samples or k,
                model=ModelOptions(target, checkpoint, base, temperature, max_tokens, device, "eval"),
                profile=profile,
                max_usd=max_usd,
                examples=examples,
                as_json=json,
                yes=yes,
                no_input=no_input,
            )
        )

    @app.command()
    def export(
        node: Node,
        directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to create.")],
        *,
        checkpoint: Checkpoint = None,
        merge: Annotated[bool, typer.Option("--merge", help="Merge adapters into the base model.")] = False,
        gguf: Annotated[
            bool, typer.Option("--gguf", help="Write one GGUF file instead, for llama.cpp and Ollama.")
        ] = False,
        gguf_type: Annotated[
            options.GgufType | None,
            typer.Option(
                "--gguf-type", metavar="TYPE", help="Like --gguf, with weights as f16, bf16 or q8_0. [default: f16]"
            ),
        ] = None,
        ollama: Annotated[bool, typer.Option("--ollama", help="Also write a Modelfile for Ollama.")] = False,
        json: options.JsonAskingNothing = False,
        yes: options.Yes = False,
        no_input: options.NoInput = False,
    ) -> int:
        """Export a node's model for other programs.

        Writes a directory that `from_pretrained` loads, with the tokenizer: the whole model, or the adapters. With
        --gguf, writes a single GGUF file instead, with adapters merged into the model. This needs llama.cpp's
        converter. If it is not on this machine, swarmctl asks whether to download it (2 MB).

        \b
        Examples:
          swarmctl export maths maths-model
          swarmctl export maths maths-model --merge
          swarmctl export maths maths-gguf --gguf --ollama
          swarmctl export maths maths-gguf --gguf-type q8_0
        """
        from swarmctl.trained.export import ExportOptions
        from swarmctl.trained.export import export as write
        from swarmctl.trained.target import ModelOptions

        kind = gguf_type or (options.GgufType.F16 if gguf else None)
        model = ModelOptions(node, checkpoint, command="export", directory=directory)
        write(model, ExportOptions(directory, merge, kind, ollama, json, yes, no_input))
        return Exit.DONE

    @app.command()
    def replay(
        node: Node,
        *,
        step: Annotated[
            int | None,
            typer.Option(
                "--step", min=1, metavar="N", help="Step to repeat, counted from 1. [default: the newest possible]"
            ),
        ] = None,
        device: Device = None,
        json: options.Json = False,
    ) -> int:
        """Repeat a training step and compare its result.

        Starts from the nearest checkpoint before the step, repeats the steps up to it from the rows in the journal, and
        compares loss and gradient norm with the recorded ones. On the same CPU and with the same version of
        torch, they must be identical. The node is not changed and can be running. Exits with code 4 if a result
        differs.

        \b
        Examples:
          swarmctl replay maths
          swarmctl replay maths --step 41
          swarmctl replay maths --step 41 --device cpu --json
        """
        from swarmctl.trained.replay import replay as repeat

        return repeat(node, step=step, device=device, as_json=json)
