"""``swarmctl identity backup`` and ``restore``."""

import os
import shlex
import sys
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity, animal_name, claim, read_file
from swarmctl.identity import backup_file as identityfile
from swarmctl.identity.new import chosen, opened, put, tell, to_make
from swarmctl.identity.show import describe
from swarmctl.nodes.lookup import all_nodes, existing, files_of
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.output_file import checked_target
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer

_OTHERS = 0o077


def backup(file: Path, node: str | None, prompter: Prompter, *, yes: bool, locked: bool, as_json: bool) -> None:
    """Write a node's identity into ``file``, with mode 0600.

    Raises:
        IdentityProblem: it has none, or there is no passphrase.
        ConfigurationError: the file is there already.
    """
    files = existing(chosen(node, f"swarmctl identity backup {shlex.quote(str(file))}"))
    name = files.root.name
    if not os.path.lexists(files.key):
        following = f"swarmctl identity new --node {shlex.quote(name)}"
        raise IdentityProblem(f"node {name} has no identity yet", next=following)
    identity = Identity.load(files.key)
    words = ["identity", "backup", str(file), "--node", name, *(["--passphrase"] if locked else []), "--yes"]
    target = checked_target(file, yes=yes, again=command(words))
    passphrase = _new_passphrase(prompter) if locked else None
    with disk_errors(target.parent):
        atomic_write.write(target, identityfile.written(identity, name, passphrase), exclusive=not target.exists())
    animal = animal_name(identity.peer_id)
    if as_json:
        print_json(node=name, peer_id=identity.peer_id, name=animal, file=str(target), locked=locked)
        return
    say = Writer(sys.stdout)
    say(f"Saved {animal}, {identity.peer_id}, in {shown(target)}.")
    say("It takes the passphrase to read it." if locked else "Whoever can read that file can be this node.")


def restore(file: Path, node: str | None, prompter: Prompter, *, as_json: bool) -> None:
    """Give a node the identity in ``file``.

    Raises:
        IdentityProblem: the file holds none, or a node that is running lives as it, or the node has another and nobody
            agreed to replace it.
        NodeConflict: the node is running.
    """
    name = chosen(node, f"swarmctl identity restore {shlex.quote(str(file))}")
    path = file.expanduser()
    content, mode = read_file(path)
    passphrase = _passphrase(prompter, "Passphrase:") if identityfile.is_locked(content) else None
    identity = identityfile.read(content, path, passphrase)
    again = f"swarmctl identity restore {shlex.quote(str(file))} --node {shlex.quote(name)}"
    config = to_make(name)
    claims = files_of(name).claims
    # Claimed before the node is made, and until it is whole: a live node of this identity stays the only one.
    with disk_errors(claims), claim(claims, identity.peer_id, name):
        with opened(name, config, again) as files:
            replaced = put(identity, files, prompter, f"{again} --yes")
    tell(identity, files, replaced, as_json=as_json)
    for warning in _warnings(path, mode, identity, files):
        prompter.say(f"warning: {warning}")


def _warnings(path: Path, mode: int, identity: Identity, files: NodeFiles) -> list[str]:
    others = [describe(other) for other in all_nodes() if other != files]
    twins = [other["node"] for other in others if other["peer_id"] == identity.peer_id]
    found = [f"node {twin} has this identity too: only one of them can run" for twin in twins]
    if mode & _OTHERS:
        found.append(f"others can read {shown(path)} ({mode:04o}), and so be this node")
    return found


def _new_passphrase(prompter: Prompter) -> str:
    first = _passphrase(prompter, "Passphrase:")
    if prompter.is_typed and _passphrase(prompter, "The same again:") != first:
        raise IdentityProblem("the two passphrases differ; nothing was saved", next="swarmctl identity backup --help")
    return first


def _passphrase(prompter: Prompter, prompt: str) -> str:
    """Return a passphrase. Raises IdentityProblem where there is none."""
    silent = IdentityProblem(
        "there is a passphrase to type and nothing may be asked: pipe it in", next="swarmctl identity --help"
    )
    text = prompter.secret(prompt, silent).rstrip("\r\n")
    if not text:
        raise IdentityProblem("there is no passphrase", next="swarmctl identity --help")
    return text
