"""``swarmctl models``."""

from typing import Annotated

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command to the command tree."""
    app.command("models")(_models)


def _models(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="A built-in provider, or your [providers.NAME].")],
    *,
    profile: options.Profile = None,
    json: options.JsonAskingNothing = False,
    no_input: options.NoInput = False,
) -> None:
    """List a provider's models, cheapest first.

    Free of charge. Shows each model's price in USD per million tokens, its context in tokens, and whether it reasons
    before it answers. A dash means unknown.

    \b
    Examples:
      swarmctl models openai
      swarmctl models groq --json
      swarmctl models mybox --profile mine
    """
    from swarmctl.models.list import list_models

    list_models(provider, profile, as_json=json, no_input=no_input)
