"""``swarmctl rollouts``: show, export, stats."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

RoundOption = Annotated[int | None, typer.Option("--round", min=1, metavar="N", help="Only this round, from 1.")]
QuestionOption = Annotated[
    str, typer.Option("--question", metavar="DIGEST", help="Only questions whose digest starts with this.")
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="SOURCE", help="Only this kind (teacher, policy, …) or provider (openai, local, …)."
    ),
]

group = command_group(
    """Show, export and count a node's rollouts.

    A rollout is a completion with its prompt, reward, source and cost. These commands only read the node's files, so
    they also work while it runs.

    Examples:
      swarmctl rollouts show --last 3
      swarmctl rollouts stats
    """
)


@group.command("show")
def _show(
    name: options.NodeName = None,
    *,
    node: options.LatestNode = None,
    round: RoundOption = None,
    question: QuestionOption = "",
    source: SourceOption = None,
    last: Annotated[int, typer.Option("--last", min=1, metavar="N", help="Only the latest N.")] = 10,
    full: Annotated[bool, typer.Option("--full", help="Don't truncate long texts.")] = False,
    json: options.Json = False,
) -> None:
    """Print rollouts with prompt, reward, source and cost.

    Examples:
      swarmctl rollouts show maths --last 3 --full
      swarmctl rollouts show --round 12 --source teacher --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.rollouts.journal import RolloutFilter
    from swarmctl.rollouts.show import show

    wanted = RolloutFilter(round=round, question=question, source=source, lost=True, last=last)
    show(one_name(name, node), wanted, full=full, as_json=json)


@group.command("export")
def _export(
    name: options.NodeName = None,
    *,
    node: options.LatestNode = None,
    round: RoundOption = None,
    question: QuestionOption = "",
    source: SourceOption = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, metavar="N", help="Only the latest N. [default: all]")
    ] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Only completions verified as correct.")] = False,
    format: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl, csv or parquet. [default: from FILE's extension, or jsonl]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Output file, or - for stdout.")] = "-",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite an existing file.")] = False,
) -> None:
    """Export completions as JSON lines, CSV or Parquet.

    Each completion is one row, with its prompt, reward, provider and model.

    Examples:
      swarmctl rollouts export maths --correct > correct.jsonl
      swarmctl rollouts export --source openai -o rollouts.parquet
      swarmctl rollouts export maths --last 500 -o latest.csv
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.rollouts.export import export
    from swarmctl.rollouts.journal import RolloutFilter

    wanted = RolloutFilter(round=round, question=question, source=source, correct=correct, last=last)
    export(one_name(name, node), wanted, output=output, format=format, yes=yes)


@group.command("stats")
def _stats(
    name: options.NodeName = None,
    *,
    node: options.LatestNode = None,
    by: Annotated[
        str, typer.Option("--by", metavar="KEYS", help="Group by any of provider,model,stage.")
    ] = "provider,model,stage",
    json: options.Json = False,
) -> None:
    """Count requests, tokens, cost, completions and results.

    Counts all runs of the node, while the live view counts one. The table shows the share of completions verified as
    correct, and how many slots stayed empty (lost).

    Examples:
      swarmctl rollouts stats maths
      swarmctl rollouts stats --by provider --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.rollouts.stats import stats

    stats(one_name(name, node), by, as_json=json)
