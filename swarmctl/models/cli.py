"""The arguments of ``swarmctl models``, which lists what a provider offers."""

from typing import Annotated

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command to the command tree."""
    app.command("models")(_models)


def _models(
    provider: Annotated[
        str, typer.Argument(metavar="PROVIDER", help="A built-in provider, your [providers.NAME], or a server's URL.")
    ],
    *,
    profile: options.Profile = None,
    set_: options.Settings = None,
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
      swarmctl models http://192.168.1.20:8000/v1
    """
    from swarmctl.models.list import list_models

    list_models(provider, profile, set_ or (), as_json=json, no_input=no_input)
