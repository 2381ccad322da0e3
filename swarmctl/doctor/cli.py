"""``swarmctl doctor``: whether this machine can run a node, and what to do where it cannot."""

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
                help="Groups (hub), single checks (hub.token), a provider (api.openai). [default: all]",
            ),
        ] = None,
        *,
        profile: options.Profile = None,
        node: Annotated[str | None, typer.Option(metavar="NAME", help="Node. [default: the profile's]")] = None,
        set_: options.Settings = None,
        deep: Annotated[
            bool,
            typer.Option(
                "--deep",
                help="Also compute, for up to 2 minutes; and ask each provider for one word, which costs money.",
            ),
        ] = False,
        offline: Annotated[bool, typer.Option("--offline", help="Ask nothing of the network.")] = False,
        fix: Annotated[
            bool, typer.Option("--fix", help="Cure what is safe: modes, leftovers, missing directories.")
        ] = False,
        report: Annotated[
            bool, typer.Option("--report", help="Print Markdown for a bug report, without keys and names.")
        ] = False,
        json: options.Json = False,
    ) -> int:
        """Check this machine, the installation and a profile; say what cures each trouble. Exit code 4 on a failure.

        Groups: machine, python, accelerator, fit, keys, api, swarm, hub. Nothing is changed without --fix.

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
