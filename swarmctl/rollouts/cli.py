"""``swarmctl rollouts``: show, export, stats."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

RoundOption = Annotated[int | None, typer.Option("--round", min=0, metavar="N", help="Only this round.")]
QuestionOption = Annotated[
    str, typer.Option("--question", metavar="DIGEST", help="Only questions whose digest begins so.")
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="SOURCE", help="Only a kind (teacher, policy, …) or a provider (openai, local)."),
]

group = command_group(
    """Show, export and count what was generated for a node: completions, their rewards, where from, at which price.

    Reads the node's files only, also while it runs, and changes nothing.

    Examples:
      swarmctl rollouts show --last 3
      swarmctl rollouts stats
    """
)


@group.command("show")
def _show(
    *,
    node: options.LatestNode = None,
    round: RoundOption = None,
    question: QuestionOption = "",
    source: SourceOption = None,
    last: Annotated[int, typer.Option("--last", min=1, metavar="N", help="How many, the latest.")] = 10,
    full: Annotated[bool, typer.Option("--full", help="Leave nothing out of long texts.")] = False,
    json: options.Json = False,
) -> None:
    """Print prompts, completions, what each reward is made of and why, source, provider, model and price.

    Examples:
      swarmctl rollouts show --node maths --last 3 --full
      swarmctl rollouts show --round 12 --source teacher --json
    """
    from swarmctl.rollouts.journal import RolloutFilter
    from swarmctl.rollouts.show import show

    wanted = RolloutFilter(round=round, question=question, source=source, lost=True, last=last)
    show(node, wanted, full=full, as_json=json)


@group.command("export")
def _export(
    *,
    node: options.LatestNode = None,
    round: RoundOption = None,
    question: QuestionOption = "",
    source: SourceOption = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, metavar="N", help="How many, the latest. [default: all]")
    ] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Only what was verified as right.")] = False,
    format: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option("--format", help="[default: jsonl; parquet for a FILE.parquet]", show_default=False),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="A file, or - for stdout.")] = "-",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Write over a file that is there.")] = False,
) -> None:
    """Write completions as JSON lines or Parquet, a row each, with provider and model on every row.

    Examples:
      swarmctl rollouts export --node maths --correct > right.jsonl
      swarmctl rollouts export --source openai -o rollouts.parquet
    """
    from swarmctl.rollouts.export import export
    from swarmctl.rollouts.journal import RolloutFilter

    wanted = RolloutFilter(round=round, question=question, source=source, correct=correct, last=last)
    export(node, wanted, output=output, format=format, yes=yes)


@group.command("stats")
def _stats(
    *,
    node: options.LatestNode = None,
    by: Annotated[
        str, typer.Option("--by", metavar="KEYS", help="What to tell apart: any of provider,model,stage.")
    ] = "provider,model,stage",
    json: options.Json = False,
) -> None:
    """Count requests, tokens, dollars, completions, the share verified as right, and places that were given up.

    Examples:
      swarmctl rollouts stats --node maths
      swarmctl rollouts stats --by provider --json
    """
    from swarmctl.rollouts.stats import stats

    stats(node, by, as_json=json)
