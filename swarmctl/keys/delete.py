"""``swarmctl keys delete``."""

import os

from hivemind_exp.errors import KeyProblem
from swarmctl.errors import UsageError
from swarmctl.keys.finder import key_locations
from swarmctl.keys.key_text import check_name, dotted_tail
from swarmctl.keys.keyring import Keyring, KeyringAbsent
from swarmctl.keys.saved import SavedKey, bound_origin, entries, read_entry, remove_entry, remove_secret, unbind
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter


def delete_keys(name: str | None, *, all_: bool, yes: bool, no_input: bool, as_json: bool) -> None:
    """Delete one key, or all saved keys. Raises NodeError if that fails."""
    if (name is None) != all_:
        raise UsageError("give either a key name or --all", next="swarmctl keys delete --help")
    prompter = Prompter(yes=yes, silent=no_input or as_json)
    if name is not None and read_entry(check_name(name)) is None and (origin := bound_origin(name)):
        unbind(name)
        prompter.say(f"Key {name} no longer belongs to {origin}. It will belong to the address of its next use.")
        if as_json:
            print_json(deleted=[], unbound=[name])
        return
    saved = list(entries().values()) if name is None else [_saved(check_name(name))]
    if not saved:
        prompter.say("No saved keys.")
    elif name is None:
        names, again = ", ".join(entry.name for entry in saved), "swarmctl keys delete --all --yes"
        refusal = KeyProblem(f"deleting {names} needs confirmation; nothing was deleted", next=again)
        prompter.confirm(f"Delete the key{'s' if len(saved) > 1 else ''} {names}?", refusal, "Nothing was deleted.")
    for entry in saved:
        _delete(entry, prompter)
    if as_json:
        print_json(deleted=[entry.name for entry in saved], unbound=[])


def _saved(name: str) -> SavedKey:
    if entry := read_entry(name):
        return entry
    found = key_locations(name, os.environ)
    elsewhere = f"key {name} comes from {found[0].where}; swarmctl did not save it" if found else None
    raise KeyProblem(elsewhere or f"no key for {name}", next="swarmctl keys list")


def _delete(entry: SavedKey, prompter: Prompter) -> None:
    left = ""
    try:
        for host in entry.in_keyring:
            Keyring(prompter).delete(entry.name, host)
    except KeyringAbsent:
        # The machine no longer has a keyring, so the key is probably gone, too: do not keep its name forever.
        left = " No keyring is available: if a keyring still holds this key, it was not deleted there."
    remove_secret(entry.name)
    remove_entry(entry.name)
    unbind(entry.name)
    prompter.say(f"Deleted key {entry.name} {dotted_tail(entry.last_four)}.{left}")
    if found := key_locations(entry.name, os.environ):
        prompter.say(f"warning: {found[0].where} still has a key for {entry.name}.")
