"""``swarmctl doctor``: check whether this machine can run a node, and suggest fixes."""

from typing import Annotated

import typer

from swarmctl.settings.options import DoctorOptions
from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor(
        checks: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[CHECK]...",
                help="Groups (hub), single checks (hub.token) or providers (api.openai). [default: all]",
            ),
        ] = None,
        *,
        profile: options.Profile = None,
        node: Annotated[
            str | None, typer.Option(metavar="NODE", help="Node name. [default: the profile's, or the latest node]")
        ] = None,
        set_: options.Settings = None,
        deep: Annotated[
            bool,
            typer.Option(
                "--deep",
                help="Also run a training step (up to 2 minutes) and send each provider a test question "
                "(may cost money).",
            ),
        ] = False,
        offline: Annotated[bool, typer.Option("--offline", help="Don't use the network.")] = False,
        fix: Annotated[
            bool,
            typer.Option("--fix", help="Fix what is safe to fix: file modes, leftovers, missing directories."),
        ] = False,
        report: Annotated[
            bool, typer.Option("--report", help="Print Markdown for a bug report, without keys or names.")
        ] = False,
        json: options.Json = False,
    ) -> int:
        """Check your setup and suggest fixes.

        Covers this machine, the installation, and a node or profile: by default, the latest node. Changes nothing
        without --fix. Exits with code 4 if a check fails.

        Groups: machine, python, accelerator, fit, keys, api, swarm, hub.

        \b
        Examples:
          swarmctl doctor
          swarmctl doctor fit hub --profile gpu
          swarmctl doctor --node maths --set train.micro_batch=4 --deep
          swarmctl doctor --report > report.md
        """
        given = DoctorOptions(
            checks=tuple(checks or ()),
            profile=profile,
            node=node,
            assignments=tuple(set_ or ()),
            deep=deep,
            offline=offline,
            fix=fix,
            report=report,
            as_json=json,
        )
        from swarmctl.doctor.command import doctor_command

        return doctor_command(given)
