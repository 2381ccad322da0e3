"""``swarmctl keys``: set, list, test, delete, import."""

from pathlib import Path
from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

InsecureOption = Annotated[
    bool, typer.Option("--insecure-storage", help="Keep it in a file only you can read, not in the keyring.")
]
NoTestOption = Annotated[bool, typer.Option("--no-test", help="Do not ask the service whether it accepts the key.")]
LeakedOption = Annotated[str | None, typer.Option("--key", "--api-key", "--token", "--value", hidden=True)]

group = command_group(
    """Save, list, test and delete keys of services. They stay in the system's keyring.

    Names: openai, deepseek, openrouter, groq, together, mistral, gemini, xai, fireworks, cerebras, huggingface, wandb,
    or one of your own with --host. A key is only ever sent to the host it was saved for.

    \b
    Examples:
      swarmctl keys set openai
      swarmctl keys list
    """
)


# Whatever else stands behind the name is a key that somebody typed: told as such, and not repeated in an error.
@group.command("set", context_settings={"allow_extra_args": True})
def _set(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Provider, or a name of your own.")],
    *,
    host: Annotated[str | None, typer.Option("--host", metavar="URL", help="For a name of your own: the API.")] = None,
    no_test: NoTestOption = False,
    insecure_storage: InsecureOption = False,
    leaked_option: LeakedOption = None,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Save a key: typed unseen, or piped in. Never write it on the command line.

    It is tested; one that the service refuses is not saved. Without a keyring you are asked before a file is used.

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
    set_key(name, SetOptions(host, test=not no_test, insecure=insecure_storage, yes=yes, no_input=no_input))


@group.command("list")
def _list(json: options.JsonAskingNothing = False) -> None:
    """List the keys there are.

    Host, last four characters, where each lives, what it hides, last test. Reads no secret.

    \b
    Examples:
      swarmctl keys list
      swarmctl keys list --json
    """
    from swarmctl.keys.list import list_keys

    list_keys(as_json=json)


@group.command("test")
def _test(
    name: Annotated[str | None, typer.Argument(help="Which key. [default: all]")] = None,
    *,
    json: options.JsonAskingNothing = False,
    no_input: options.NoInput = False,
) -> int:
    """Ask services whether they accept the keys.

    Free of charge; also tells which models there are. Exit code 4 where a key is refused, has no credit, or its
    service cannot be reached.

    \b
    Examples:
      swarmctl keys test
      swarmctl keys test openai --json
    """
    from swarmctl.keys.test import test_keys

    return test_keys(name, as_json=json, no_input=no_input)


@group.command("delete")
def _delete(
    name: Annotated[str | None, typer.Argument(help="Which key.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every key that was saved.")] = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Delete a key from the keyring, or from its file.

    \b
    Examples:
      swarmctl keys delete openai
      swarmctl keys delete --all
    """
    from swarmctl.keys.delete import delete_keys

    delete_keys(name, all_=all_, yes=yes, no_input=no_input)


@group.command("import")
def _import(
    file: Annotated[Path | None, typer.Argument(help="A .env file. [default: the environment]")] = None,
    *,
    no_test: NoTestOption = False,
    insecure_storage: InsecureOption = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Save keys found in the environment or a .env file.

    Takes those of providers, and says what to clean afterwards.

    \b
    Examples:
      swarmctl keys import
      swarmctl keys import .env
    """
    from swarmctl.keys.from_environment import import_keys
    from swarmctl.keys.set import SetOptions

    import_keys(file, SetOptions(test=not no_test, insecure=insecure_storage, yes=yes, no_input=no_input))
