"""``swarmctl init``: ask a few questions, check the machine, write a profile, and start its node."""

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def init(*, no_input: options.NoInput = False) -> int:
        """Set up a node with a few questions, and start it.

        Asks what to train and on which task, checks this machine, writes a profile, saves an API key if one is missing,
        and shows the plan with its cost. Then it asks whether to start the node. Nothing is spent before you agree.

        \b
        Examples:
          swarmctl init
          swarmctl profiles new maths --task gsm8k && swarmctl run --profile maths    # the same without questions
        """
        from swarmctl.init.command import init_command

        return init_command(no_input=no_input)
