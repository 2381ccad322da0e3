"""``swarmctl run``: start or resume a node; ``swarmctl attach``: watch a running one."""

from typing import Annotated

import typer

from swarmctl.errors import UsageError
from swarmctl.settings.offload_target import offload_flags, serve_flags
from swarmctl.settings.options import FLAGS, RunOptions, tasks_text
from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def run(
        *,
        profile: options.Profile = None,
        node: Annotated[
            str | None, typer.Option(metavar="NODE", help="Node name. [default: the profile's name]")
        ] = None,
        task: options.Tasks = None,
        model: options.Model = None,
        device: options.Device = None,
        gpus: Annotated[
            int | None, typer.Option(min=1, metavar="N", help="Train and generate on the first N NVIDIA GPUs.")
        ] = None,
        rounds: Annotated[
            int | None, typer.Option(min=0, metavar="N", help="Total rounds of the node; 0: until you stop it.")
        ] = None,
        seed: Annotated[
            int | None, typer.Option(min=0, metavar="N", help="Seed of sampling and adapter weights.")
        ] = None,
        offload: options.Offload = None,
        serve: Annotated[
            str | None,
            typer.Option(metavar="COMMAND", help="Start a server of this node's weights: vllm, sglang, or a path."),
        ] = None,
        max_usd: options.MaxUsd = None,
        join: Annotated[
            str | None,
            typer.Option(metavar="INVITATION", help="Join a swarm; see `swarmctl swarm invite`."),
        ] = None,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Change any setting (repeatable)."),
        ] = None,
        fresh: Annotated[bool, typer.Option("--fresh", help="Start over: delete what the node learned.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; change nothing.")] = False,
        all_: Annotated[bool, typer.Option("--all", help="With --dry-run: also show all settings.")] = False,
        detach: Annotated[
            bool, typer.Option("-d", "--detach", help="Continue in the background once the node has started.")
        ] = False,
        restart: Annotated[
            str | None,
            typer.Option(
                metavar="WHEN", help="Restart a trainer that fails: on-failure, never, or auto (with --detach)."
            ),
        ] = None,
        plain: options.Plain = False,
        json: Annotated[
            bool, typer.Option("--json", help="Print the result as JSON at the end; never prompt.")
        ] = False,
        quiet: Annotated[
            bool, typer.Option("-q", "--quiet", help="Print only warnings, errors and the summary.")
        ] = False,
        verbose: Annotated[
            bool, typer.Option("-v", "--verbose", help="Also print what is saved; show tracebacks.")
        ] = False,
        yes: options.Yes = False,
        no_input: options.NoInput = False,
    ) -> int:
        """Start or resume a node.

        Ctrl-C saves and stops within seconds. To resume the node, repeat the command. `run --node NAME` resumes it with
        the settings of its last run. To start over, add --fresh.

        \b
        Examples:
          swarmctl run --profile demo
          swarmctl run --task gsm8k --model Qwen/Qwen2.5-1.5B-Instruct --node maths
          swarmctl run --node maths --set train.learning_rate=2e-5
          swarmctl run --offload openai:gpt-6-luna --max-usd 2
          swarmctl run --offload http://localhost:8000/v1
          swarmctl run --profile gpu --set model.lora.rank=16 --serve vllm
          swarmctl run --profile gpu --set model.lora.rank=16 --serve sglang
          swarmctl run --profile gpu --dry-run
          swarmctl run --profile gpu --gpus 2 --node maths
          swarmctl run --task env:my-environment --dry-run
          swarmctl run --node maths --detach
          swarmctl run --node maths --restart on-failure
          swarmctl run --join swarm1:4be1…@/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo… --node mine
        """
        settings = {
            "--task": tasks_text(task),
            "--model": model,
            "--device": device,
            "--gpus": gpus,
            "--rounds": rounds,
            "--seed": seed,
            "--max-usd": max_usd,
            "--join": join,
            "--restart": restart,
        }
        flags = [(flag, FLAGS[flag], str(value)) for flag, value in settings.items() if value is not None]
        if serve is not None and offload is not None:
            text = "--serve starts a server that generates; use either --serve or --offload"
            raise UsageError(text, next="swarmctl run --help")
        flags += [*offload_flags(offload, set_ or ()), *serve_flags(serve)]
        if detach and dry_run:
            raise UsageError("--dry-run starts nothing, so it cannot be used with --detach", next="swarmctl run --help")
        given = RunOptions(
            profile=profile,
            node=node,
            flags=tuple(flags),
            assignments=tuple(set_ or ()),
            fresh=fresh,
            dry_run=dry_run,
            all_settings=all_,
            detach=detach,
            plain=plain,
            as_json=json,
            quiet=quiet,
            verbose=verbose,
            yes=yes,
            no_input=no_input,
        )
        from swarmctl.run.command import run_command

        return run_command(given)

    @app.command()
    def attach(
        name: options.NodeName = None,
        *,
        node: Annotated[
            str | None, typer.Option(metavar="NODE", help="Node name. [default: the only running one]")
        ] = None,
        plain: options.Plain = False,
    ) -> int:
        """Watch a running node.

        Ctrl-C ends the view; the node continues. To stop it, use `swarmctl stop`.

        \b
        Examples:
          swarmctl attach
          swarmctl attach maths --plain
        """
        from swarmctl.nodes.lookup import one_name
        from swarmctl.run.attach import attach as attach_node

        return attach_node(one_name(name, node), plain=plain)
