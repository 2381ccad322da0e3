"""``swarmctl keys``: set, list, test, delete, import."""

from pathlib import Path
from typing import Annotated

import typer

from hivemind_exp.providers import PROVIDERS
from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

InsecureOption = Annotated[
    bool, typer.Option("--insecure-storage", help="Store the key unencrypted in a file only you can read.")
]
NoTestOption = Annotated[bool, typer.Option("--no-test", help="Save without testing.")]
LeakedOption = Annotated[str | None, typer.Option("--key", "--api-key", "--token", "--value", hidden=True)]

group = command_group(
    f"""Save, list, test and delete API keys.

    Keys are stored in the system keyring. A key is only ever sent to the host it was saved for.

    Names: {", ".join(row.name for row in PROVIDERS.values() if row.needs_key)}, or a name you choose with --host.

    \b
    Examples:
      swarmctl keys set openai
      swarmctl keys list
    """
)


# Anything after the name is taken for a key that the user typed. The error explains that and does not repeat it.
@group.command("set", context_settings={"allow_extra_args": True})
def _set(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Provider, or a name you choose with --host.")],
    *,
    host: Annotated[
        str | None, typer.Option("--host", metavar="URL", help="Base URL of the API, for a name you choose.")
    ] = None,
    no_test: NoTestOption = False,
    insecure_storage: InsecureOption = False,
    leaked_option: LeakedOption = None,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Save an API key (hidden prompt or stdin).

    Never write a key on the command line. The key is tested first, and not saved if the service rejects it. If there
    is no keyring, you are asked before the key is stored in a file.

    \b
    Examples:
      swarmctl keys set openai
      swarmctl keys set huggingface < token.txt
      swarmctl keys set mybox --host http://192.168.1.20:8000/v1
      pass show openai | swarmctl keys set openai --no-input
    """
    from swarmctl.keys.key_text import check_name, leaked
    from swarmctl.keys.set import SetOptions, set_key

    check_name(name)
    if context.args or leaked_option is not None:
        raise leaked(name)
    silent = no_input or json
    how = SetOptions(host, test=not no_test, insecure=insecure_storage, yes=yes, no_input=silent)
    set_key(name, how, as_json=json)


@group.command("list")
def _list(json: options.JsonAskingNothing = False) -> None:
    """List API keys.

    Shows each key's host, last four characters, location, last test result and the keys it overrides. Does not read
    the keyring or key files.

    \b
    Examples:
      swarmctl keys list
      swarmctl keys list --json
    """
    from swarmctl.keys.list import list_keys

    list_keys(as_json=json)


@group.command("test")
def _test(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Key to test. [default: all]")] = None,
    *,
    json: options.JsonAskingNothing = False,
    no_input: options.NoInput = False,
) -> int:
    """Test whether services accept your keys.

    Free of charge. Also shows which models are available. Exits with code 4 if a key is refused or has no credit, or
    if its service cannot be reached.

    \b
    Examples:
      swarmctl keys test
      swarmctl keys test openai --json
    """
    from swarmctl.keys.test import test_keys

    return test_keys(name, as_json=json, no_input=no_input)


@group.command("delete")
def _delete(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Key to delete.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Delete every saved key.")] = False,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Delete a saved key from the keyring or its file.

    \b
    Examples:
      swarmctl keys delete openai
      swarmctl keys delete --all --yes --json
    """
    from swarmctl.keys.delete import delete_keys

    delete_keys(name, all_=all_, yes=yes, no_input=no_input, as_json=json)


@group.command("import")
def _import(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A .env file. [default: the environment]")] = None,
    *,
    no_test: NoTestOption = False,
    insecure_storage: InsecureOption = False,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> int:
    """Save keys found in the environment or a .env file.

    Imports the keys of known providers only, then shows how to remove them from where they were found.

    \b
    Examples:
      swarmctl keys import
      swarmctl keys import .env
    """
    from swarmctl.keys.from_environment import import_keys
    from swarmctl.keys.set import SetOptions

    silent = no_input or json
    how = SetOptions(test=not no_test, insecure=insecure_storage, yes=yes, no_input=silent)
    return import_keys(file, how, as_json=json)
