"""``swarmctl profiles``: list, show, path, validate, new, edit, delete, import."""

from typing import Annotated

import typer

from swarmctl.settings.options import tasks_text
from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NoInput = Annotated[bool, typer.Option("--no-input", help="Never prompt.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Overwrite an existing profile.")]

group = command_group(
    """Manage profiles, the files that configure a node.

    Your profiles are the .toml files in ~/.config/swarmctl/profiles. Commands without --profile use the one in
    $SWARMCTL_PROFILE, or else default.toml there, or else the built-in default profile.

    \b
    Examples:
      swarmctl profiles list
      swarmctl profiles show demo --origin
    """
)


@group.command("list")
def _list(json: options.Json = False) -> None:
    """List built-in profiles and your own.

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
        str | None,
        typer.Argument(metavar="PROFILE", help="Profile name or .toml file. [default: the one run would use]"),
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value comes from.")] = False,
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Print all of a profile's settings as TOML.

    You can save the output as a profile of your own.

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
        str | None, typer.Argument(metavar="PROFILE", help="Profile name or .toml file. [default: all]")
    ] = None,
    json: options.Json = False,
) -> int:
    """Check profiles and print every problem.

    Exits with code 3 if a profile has a problem.

    \b
    Examples:
      swarmctl profiles validate
      swarmctl profiles validate ./mine.toml
    """
    from swarmctl.profiles.validate import validate_profiles

    return validate_profiles(name, as_json=json)


@group.command("new")
def _new(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the new profile. [default: prompt on a terminal]")
    ] = None,
    *,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="BUILTIN", help="Built-in profile to start from. [default: default]"),
    ] = None,
    model: options.Model = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Task or preset (repeatable).")] = None,
    device: options.Device = None,
    rounds: Annotated[int | None, typer.Option(min=0, metavar="N", help="Total rounds; 0: until you stop it.")] = None,
    offload: options.Offload = None,
    max_usd: options.MaxUsd = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting (repeatable).")
    ] = None,
    yes: Yes = False,
    no_input: NoInput = False,
    json: options.Json = False,
) -> None:
    """Create a profile.

    On a terminal, prompts for the main settings unless you pass any as options. Without NAME, also prompts for the name
    and the built-in profile, and suggests the profile that suits this machine.

    \b
    Examples:
      swarmctl profiles new
      swarmctl profiles new mine
      swarmctl profiles new maths --from gpu --task gsm8k --set train.learning_rate=2e-5
      swarmctl profiles new taught --offload openai:gpt-6-luna --max-usd 2
    """
    from swarmctl.profiles.new import new_profile

    flags = {"--model": model, "--task": tasks_text(task), "--device": device, "--rounds": rounds}
    flags |= {"--offload": offload, "--max-usd": max_usd}
    settings = [(flag, str(value)) for flag, value in flags.items() if value is not None]
    settings += [("--set", assignment) for assignment in set_ or ()]
    new_profile(name, base, settings, yes=yes, no_input=no_input, as_json=json)


@group.command("path")
def _path(
    name: Annotated[str | None, typer.Argument(metavar="[PROFILE]", help="Profile name.")] = None,
    *,
    json: options.Json = False,
) -> None:
    """Print the path of a profile, or of your profiles directory.

    \b
    Examples:
      swarmctl profiles path
      swarmctl profiles path mine
      swarmctl profiles path gpu --json
    """
    from swarmctl.profiles.files import print_path

    print_path(name, as_json=json)


@group.command("edit")
def _edit(name: Annotated[str, typer.Argument(metavar="PROFILE", help="Profile name or .toml file.")]) -> int:
    """Open a profile in your editor, then check it.

    Uses $VISUAL or $EDITOR. Exits with code 3 if the profile has a problem. Nodes use the changed profile at their next
    run.

    \b
    Examples:
      swarmctl profiles edit mine
      swarmctl profiles edit ./mine.toml
    """
    from swarmctl.profiles.files import edit

    return edit(name)


@group.command("delete")
def _delete(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="Name of one of your profiles.")],
    *,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Delete one of your profiles.

    Asks first, and names the nodes whose last run used it.

    \b
    Examples:
      swarmctl profiles delete mine
      swarmctl profiles delete mine --yes
    """
    from swarmctl.profiles.files import delete

    delete(name, yes=yes, no_input=no_input, as_json=json)


@group.command("import")
def _import(
    file: Annotated[str, typer.Argument(metavar="FILE.yaml", help="An RL Swarm configuration file.")],
    *,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the profile. [default: the file's name]")
    ] = None,
    no_test: Annotated[bool, typer.Option("--no-test", help="Save API keys without testing.")] = False,
    insecure_storage: Annotated[
        bool,
        typer.Option("--insecure-storage", help="Store API keys unencrypted in files only you can read."),
    ] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    json: options.Json = False,
) -> int:
    """Create a profile from an RL Swarm YAML file.

    Prints what each setting in the file becomes. API keys never go into a profile: they are tested and saved as with
    `swarmctl keys set`, and you are shown how to remove them from the file. Exits with code 3 or 4 if a key could not
    be saved.

    \b
    Examples:
      swarmctl profiles import grpo-qwen-2.5-0.5b.yaml
      swarmctl profiles import old.yaml --name maths --no-test
    """
    from swarmctl.keys.set import SetOptions
    from swarmctl.profiles.importing.command import import_profile

    how = SetOptions(test=not no_test, insecure=insecure_storage, no_input=no_input or json)
    return import_profile(file, name, how, yes=yes, as_json=json)
