"""Every command that reads, on terminals of several widths: lines end between words."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from hivemind_exp.event_log import EventLog
from hivemind_exp.events import WarningEvent
from hivemind_exp.peers.records import PeerBook
from hivemind_exp.swarm.identity import Identity
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.journals import mixed_node
from tests.support.terminals import printed

pytestmark = pytest.mark.slow

COMMANDS = """
--help; run --help; swarm --help; rollouts show --help; keys set --help; status; logs maths; rollouts show maths
rollouts stats maths; identity show; swarm show tea; swarm peers tea; swarm leaderboard tea; profiles list
profiles validate; swarm list; restart --help; init --help; export --help
keys list; keys test openai; doctor machine --offline; stop maths
completion install bash; completion install zsh; completion install fish; completion uninstall zsh
profiles import RL_SWARM --yes
"""
MARK = "--- "
LINES = ("source ", "fpath=", "autoload ")
"""Beginnings of lines for a shell's start-up file."""
PROGRAM = "/home/someone/projects/a-checkout/.venv/bin/swarmctl"  # as printed in commands to paste, wherever this runs


@pytest.fixture
def nodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with rollouts and a log, a node in a swarm that knows a peer, and a key."""
    files = mixed_node()
    emit = EventLog(files.events)
    emit(WarningEvent(code="x", message="mybox did not answer within 30 s, 5,210 tokens/s at 94 % " * 4))
    emit.close()
    assert cli.run(["swarm", "new", "tea", "-p", "demo"]) == Exit.DONE
    book = PeerBook(files_of("tea").swarm / "peerbook.json")
    book.record(Identity.generate().peer_id).used = 3
    book.save()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "a1B2" * 8)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing leaves this machine
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(home))


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 160])
def test_lines_end_between_words(nodes: None, tmp_path: Path, columns: int) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("max_prompt_length: 256\nlr_scheduler_type: cosine\n", encoding="utf-8")
    listed = COMMANDS.replace("RL_SWARM", str(settings)).strip()
    commands = [command.split() for command in re.split(r"[;\n]", listed)]
    code = (
        f"import json, sys; from swarmctl import cli; sys.argv[0] = {PROGRAM!r}\n"
        f"for command in json.loads(sys.argv[1]): print({MARK!r}, *command); cli.run(command)"
    )
    _, text = printed([sys.executable, "-c", code, json.dumps(commands)], columns=columns)
    assert text.count(MARK) == len(commands)
    for line in text.splitlines():
        *_, last = line.split() or [""]
        indent = len(line) - len(line.lstrip())
        pasted = line.lstrip().startswith(("try: ", PROGRAM, *LINES)) or line.startswith(MARK)  # a command is one line
        assert len(line) <= columns or pasted or len(line) - indent == len(last), (columns, line)
