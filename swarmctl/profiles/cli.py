"""``swarmctl profiles``: list, show, validate, new, import."""

from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NoInput = Annotated[bool, typer.Option("--no-input", help="Ask nothing.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Write over a profile of this name.")]

group = command_group(
    """List, show, check and make profiles: the files that say how a node runs.

    Yours are the .toml files in ~/.config/swarmctl/profiles; one named default.toml is used when none is named.

    \b
    Examples:
      swarmctl profiles list
      swarmctl profiles show demo --origin
    """
)


@group.command("list")
def _list(json: options.Json = False) -> None:
    """List the profiles there are, built-in ones and yours.

    \b
    Examples:
      swarmctl profiles list
      swarmctl profiles list --json
    """
    from swarmctl.profiles.list import list_profiles

    list_profiles(as_json=json)


@group.command("show")
def _show(
    name: Annotated[
        str | None, typer.Argument(metavar="PROFILE", help="Profile, or a .toml file. [default: the one run would use]")
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Print every setting of a profile as a run would see it: TOML that can be saved as a profile of your own.

    \b
    Examples:
      swarmctl profiles show demo --origin
      swarmctl profiles show gpu > ~/.config/swarmctl/profiles/mine.toml
    """
    from swarmctl.profiles.show import show_profile

    show_profile(name, tuple(set_ or ()), origin=origin, as_json=json)


@group.command("validate")
def _validate(
    name: Annotated[
        str | None, typer.Argument(metavar="PROFILE", help="Profile, or a .toml file. [default: all]")
    ] = None,
    json: options.Json = False,
) -> int:
    """Check profiles: every wrong key and value, with the nearest right name. Exit code 3 where there is one.

    \b
    Examples:
      swarmctl profiles validate
      swarmctl profiles validate ./mine.toml
    """
    from swarmctl.profiles.validate import validate_profiles

    return validate_profiles(name, as_json=json)


@group.command("new")
def _new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new profile.")],
    *,
    base: Annotated[
        str, typer.Option("--from", metavar="BUILTIN", help="The built-in profile it begins with.")
    ] = "default",
    model: options.Model = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Task or preset; may be repeated.")] = None,
    device: options.Device = None,
    rounds: Annotated[int | None, typer.Option(min=0, metavar="N", help="Rounds; 0: until stopped.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")
    ] = None,
    yes: Yes = False,
    no_input: NoInput = False,
    json: options.Json = False,
) -> None:
    """Make a profile of your own. On a terminal, and without flags, it asks for what matters most.

    \b
    Examples:
      swarmctl profiles new mine
      swarmctl profiles new maths --from gpu --task gsm8k --set train.learning_rate=2e-6
    """
    from swarmctl.profiles.new import new_profile

    settings = {
        "model.name": model,
        "tasks": ",".join(task) if task else None,
        "model.device": device,
        "game.rounds": rounds,
    }
    assignments = [f"{key}={value}" for key, value in settings.items() if value is not None]
    new_profile(name, base, [*assignments, *(set_ or ())], yes=yes, no_input=no_input, as_json=json)


@group.command("import")
def _import(
    file: Annotated[str, typer.Argument(metavar="FILE.yaml", help="A configuration of RL Swarm.")],
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the profile. [default: the file's]")] = None,
    no_test: Annotated[
        bool, typer.Option("--no-test", help="Do not ask services whether they accept the keys found.")
    ] = False,
    insecure_storage: Annotated[
        bool, typer.Option("--insecure-storage", help="Keep keys in files only you can read, not in the keyring.")
    ] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    json: options.Json = False,
) -> int:
    """Make a profile from RL Swarm's YAML, and say what became of every key in it.

    Keys of services never go into a profile: they are tested and saved as keys set would, and you are told what to
    clean. Exit code 3 or 4 where one could not be saved.

    \b
    Examples:
      swarmctl profiles import grpo-qwen-2.5-0.5b.yaml
      swarmctl profiles import old.yaml --name maths --no-test
    """
    from swarmctl.keys.set import SetOptions
    from swarmctl.profiles.importing.command import import_profile

    how = SetOptions(test=not no_test, insecure=insecure_storage, no_input=no_input or json)
    return import_profile(file, name, how, yes=yes, as_json=json)
