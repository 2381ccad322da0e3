"""``swarmctl keys set``: read a key without showing it, test it and store it safely."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from hivemind_exp.errors import KeyProblem, NodeError
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import has_host
from swarmctl.errors import UsageError
from swarmctl.keys.finder import key_locations
from swarmctl.keys.key_text import (
    check_name,
    clean_key,
    dotted_tail,
    host_of,
    in_the_clear,
    last_four,
    looks_foreign,
)
from swarmctl.keys.keyring import Keyring, KeyringAbsent, KeyringSilent, in_a_file, no_keyring
from swarmctl.keys.probe import probe
from swarmctl.keys.saved import Home, SavedKey, read_entry, remove_secret, write_entry, write_secret
from swarmctl.paths import keys_directory, secrets_directory, shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import now
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.suggest import nearest

_NO_KEYRING = (
    "No keyring is available in this session. Store keys in a file that only you can read (mode 0600, not encrypted)?"
)
_EITHER = "The keyring has either the previous key or the new one."
_UNCHANGED = "The previous key is unchanged, but the keyring may have stored the new one, too."
_CLEANED = "The next 'keys set' or 'keys delete' of this name deletes that copy."


@dataclass(frozen=True, slots=True)
class SetOptions:
    """The options of ``keys set``."""

    url: str | None = None
    """``--host``, for a name that is not a provider's."""
    test: bool = True
    insecure: bool = False
    yes: bool = False
    no_input: bool = False
    tell_shadows: bool = True
    """Warn if another location overrides the saved key."""
    replaces: bool = True
    """Replace a saved key without asking."""


class KeyRefused(NodeError):
    """A service refused a key."""

    code = "key_refused"


def set_key(name: str, options: SetOptions, *, as_json: bool = False) -> None:
    """Ask for a key, or read it from standard input, and save it. Raises NodeError if it is not saved."""
    check_name(name)
    prompter = Prompter(yes=options.yes, silent=options.no_input)
    entry = read_entry(name)
    url = _base_url_of(name, options.url, entry.base_url if entry else None)
    row = PROVIDERS.get(name)
    if prompter.can_ask and row and row.key_page:
        prompter.say(f"Create a key for {name} at {row.key_page}")
    if prompter.can_ask and not options.insecure and not (entry and entry.home == "file"):
        _ask_for_a_file_if_needed(name, options, prompter)
    given = prompter.secret(f"Key for {name} ({host_of(url)}), not shown:")
    key = clean_key(given, prompter.source, next=f"swarmctl keys set {name}{_flags(options)}")
    saved = keep_key(name, key, url, options, prompter)
    if as_json:
        print_json(key=saved_row(saved))


def saved_row(saved: SavedKey) -> dict[str, Any]:
    """Return what JSON says of a key that was saved. ``result``: of its test; None if it was not tested."""
    about = {"name": saved.name, "host": saved.host, "last_four": saved.last_four}
    return {**about, "place": saved.home, "result": saved.result}


def _ask_for_a_file_if_needed(name: str, options: SetOptions, prompter: Prompter) -> None:
    """Without a keyring, ask whether to store the key in a file before it is typed. Raises KeyProblem if not."""
    with suppress(TimeoutError):  # storing the key reports it
        if Keyring(Prompter(silent=True)).state().get("error") == "absent":
            prompter.ask_outright(_NO_KEYRING, _absent(name, options), "No key was saved.", once=True)


def _absent(name: str, options: SetOptions) -> KeyringAbsent:
    return KeyringAbsent(no_keyring(name), next=f"{in_a_file(name)}{_flags(options)}")


def _base_url_of(name: str, given: str | None, saved: str | None) -> str:
    """Return a key's base URL: the provider's, else the given one, else the saved one.

    Raises KeyProblem if the given URL is not the provider's, or if there is no URL.
    """
    row = PROVIDERS.get(name)
    if row is not None:
        if given is not None and _checked_url(given) != row.base_url:
            text = f"the key {name} is only sent to {row.base_url}. To use another host, choose another name."
            raise KeyProblem(text, next=f"swarmctl keys set my{name} --host {_checked_url(given)}")
        return row.base_url
    if given is not None:
        return _checked_url(given)
    if saved is not None:
        return saved
    guess = nearest(name, PROVIDERS)
    hint = f"; did you mean {guess}?" if guess else "."
    text = f"unknown provider {name!r}{hint} To use this name for another service, add --host URL."
    raise KeyProblem(text, next=f"swarmctl keys set {guess or f'{name} --host URL'}")


def _checked_url(url: str) -> str:
    """Return a base URL without a trailing slash. Raises UsageError if it is invalid."""
    text = url.strip().rstrip("/")
    text = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and has_host(text) and not (parts.query or parts.fragment)
    except ValueError:
        fine = False
    if not fine:
        raise UsageError("invalid --host. Use a URL such as https://llm.example/v1", next="swarmctl keys set --help")
    if parts.username or parts.password:
        raise UsageError("--host must not contain a user name or password", next="swarmctl keys set --help")
    return text


def keep_key(name: str, key: str, url: str, options: SetOptions, prompter: Prompter) -> SavedKey:
    """Check a key, test it, save it, and print what was done. Raises NodeError if it is not saved."""
    _doubts(name, key, url, options, prompter)
    finding = probe(name, url, key) if options.test else None
    if finding is not None and finding.result == "refused":
        refused = f"{host_of(url)} refused this key for {name}: {finding.detail}"
        again = f"swarmctl keys set {name}{_flags(options)}"
        raise KeyRefused(f"{refused}. It was not saved; a key saved before is unchanged.", next=again)
    old, tail = read_entry(name), last_four(key)
    tested = (None, None) if finding is None else (now(), finding.result)
    entry = SavedKey(name, url, host_of(url), tail, "keyring", now(), *tested)
    entry = replace(entry, home=_keep(entry, key, old, options, prompter))
    held = old.in_keyring if old else ()
    entry = replace(entry, leftovers=tuple(host for host in held if host not in entry.in_keyring))
    with disk_errors(keys_directory()):
        write_entry(entry)
    file = f"{shown(secrets_directory())}/{name}.json (mode 0600, not encrypted)"
    where = "the keyring" if entry.home == "keyring" else file
    replaced = f", replacing {dotted_tail(old.last_four)}" if old and old.last_four != tail else ""
    prompter.say(f"Saved key {name} {dotted_tail(tail)} for {entry.host} in {where}{replaced}.")
    if finding is not None:
        untested = "warning: could not test the key:"
        word = {"valid": "Tested: valid,", "no_credit": "warning:"}.get(finding.result, untested)
        later = f" To test it later: {typed(f'swarmctl keys test {name}')}" if word is untested else ""
        prompter.say(f"{word} {finding.detail}.{later}")
    _remove_old(old, entry, prompter)
    winner = key_locations(name, os.environ)[0]
    if options.tell_shadows and not winner.is_saved:
        other = f" ({dotted_tail(winner.last_four)})" if winner.last_four else ""
        prompter.say(f"warning: {winner.where}{other} overrides the saved key until you unset it.")
    return entry


def _flags(options: SetOptions) -> str:
    """Return the flags that the same command needs again."""
    host = f" --host {shlex.quote(options.url)}" if options.url else ""
    return host + " --insecure-storage" * options.insecure


def _doubts(name: str, key: str, url: str, options: SetOptions, prompter: Prompter) -> None:
    again = f"swarmctl keys set {name}{_flags(options)} --yes"
    old = read_entry(name)
    if old is not None and not options.replaces:
        what = f"the saved key {name} {dotted_tail(old.last_four)}"
        prompter.confirm(
            f"Replace {what}, saved on {old.saved[:10]}, with {dotted_tail(last_four(key))}?",
            KeyProblem(f"this would replace {what}; it was kept", next=f"swarmctl keys set {name}"),
            f"The saved key {name} is unchanged.",
        )
    if owner := looks_foreign(key, name):
        prompter.confirm(
            f"This looks like a key for {owner}, but it would be sent to {host_of(url)}. Save it for {name} anyway?",
            KeyProblem(f"this looks like a key for {owner}, not for {name}; nothing was saved", next=again),
            "No key was saved.",
        )
    if in_the_clear(url):
        prompter.confirm(
            f"The connection to {url} is not encrypted, so others on the network can read the key. Save it anyway?",
            KeyProblem(f"the connection to {url} is not encrypted, so others could read the key", next=again),
            "No key was saved.",
        )


def _keep(new: SavedKey, key: str, old: SavedKey | None, options: SetOptions, prompter: Prompter) -> Home:
    """Store the key; return where. Raises KeyProblem."""
    if not options.insecure:
        try:
            Keyring(prompter).set(new.name, new.host, key)
            return "keyring"
        except KeyringAbsent:
            if old is None or old.home != "file":  # else a file was chosen before for this key
                prompter.ask_outright(_NO_KEYRING, _absent(new.name, options), "No key was saved.", once=True)
        except KeyringSilent as error:
            error.next = f"{in_a_file(new.name)}{_flags(options)}"
            _take_back(new, old, error, prompter)
            raise
        except KeyboardInterrupt:
            _note_leftover(new, old)
            for line in _left_by_interrupt(new, old, options):
                prompter.say(line)
            raise
    with disk_errors(secrets_directory()):
        write_secret(new.name, new.host, key)
    return "file"


def _left_by_interrupt(new: SavedKey, old: SavedKey | None, options: SetOptions) -> list[str]:
    """Return the lines on what the keyring may have after Ctrl-C: its helper may have been writing the key."""
    if old is None:
        delete = typed(f"swarmctl keys delete {new.name}")
        return ["The keyring may have stored the key. To delete it:", f"  {delete}"]
    if _replaces(new, old):
        again = typed(f"swarmctl keys set {new.name}{_flags(options)}")
        return [f"{_EITHER} To be sure, save the key again:", f"  {again}"]
    return [f"{_UNCHANGED} {_CLEANED}"]


def _replaces(new: SavedKey, old: SavedKey | None) -> bool:
    """Whether the keyring stores the new key in the place of the old one."""
    return old is not None and (old.home, old.host) == ("keyring", new.host)


def _take_back(new: SavedKey, old: SavedKey | None, error: KeyringSilent, prompter: Prompter) -> None:
    """Delete what an unresponsive keyring may have stored. Add to ``error`` what is left and how to delete it."""
    if _replaces(new, old):
        _note_leftover(new, old)
        error.message += f" {_EITHER}"
        return
    try:
        Keyring(prompter).delete(new.name, new.host)
        error.message += " Nothing was saved."
    except KeyProblem:
        _note_leftover(new, old)
        if old is None:
            error.message += " The keyring may still have stored the key. Once it responds, delete the key."
            error.next = f"swarmctl keys delete {new.name}"
        else:
            error.message += f" {_UNCHANGED} {_CLEANED}"


def _note_leftover(new: SavedKey, old: SavedKey | None) -> None:
    """Record that the keyring may hold a key that was not saved, so that the next ``set`` or ``delete`` removes it.

    If it may have replaced the old key, it is unknown which of the two the keyring has, and so are its last characters.
    """
    if old is None:
        write_entry(new)
    elif _replaces(new, old):
        write_entry(replace(old, last_four=None, tested=None, result=None))
    elif new.host not in old.in_keyring:
        write_entry(replace(old, leftovers=(*old.leftovers, new.host)))


def _remove_old(old: SavedKey | None, new: SavedKey, prompter: Prompter) -> None:
    """Delete the previous copy if the key is now stored elsewhere."""
    if old is None:
        return
    if old.home == "file" and new.home == "keyring":
        remove_secret(old.name)
    left = list(new.leftovers)
    for host in new.leftovers:
        try:
            Keyring(prompter).delete(old.name, host)
            left.remove(host)
        except KeyProblem as error:
            previous = f"the previous key {old.name} {dotted_tail(old.last_four)}" if host == old.host else "a key"
            prompter.say(f"warning: cannot delete {previous} for {host}: {error.message}. {_CLEANED}")
    if left != list(new.leftovers):
        write_entry(replace(new, leftovers=tuple(left)))
