"""``swarmctl rollouts show``: what it prints for every rollout, and untrusted text."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest

from hivemind_exp.offload.hints import GIVES_AWAY
from hivemind_exp.peers.exchange import PeerDrawLog
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.identity import animal_name
from hivemind_exp.tasks.base import RewardTerm
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.terminal.safe_text import HEAD, TAIL, quoted
from tests.support.command_line import ROOT, SWARMCTL
from tests.support.full_disk import mounted_disk
from tests.support.journals import (
    PARTLY,
    RIGHT,
    SWARM,
    WRONG,
    bare_node,
    books,
    contents,
    local,
    mixed_node,
    prompt,
    sent,
)
from tests.support.terminals import printed

KEYS = [
    *("node", "swarm", "round", "stage", "task", "question", "messages", "place", "text", "truncated", "outcome"),
    *("strict", "why", "terms", "turns", "kind", "provider", "model", "version", "usd", "time", "hint", "lost"),
]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert cli.run(["rollouts", "show", "--json", *arguments]) == Exit.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    rows: list[dict[str, object]] = document["rollouts"]
    assert all(list(row) == KEYS for row in rows)
    return rows


def test_each_term_of_a_reward_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    terms = (RewardTerm("correct", 2.0, 2.0, "equal to the answer"), RewardTerm("tags", 0.495, 0.5, "4 of 4 tags once"))
    files, asked = bare_node(), prompt("aa11")
    with books(files) as written:
        written.group(0, asked, {0: local("<answer>tac</answer>")}, {0: replace(RIGHT, terms=terms)})
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    assert (
        "      2.495 of 2.5 points: correct 2 of 2 (equal to the answer), tags 0.495 of 0.5 (4 of 4 tags once)\n"
        in capsys.readouterr().out
    )
    (row,) = shown(capsys)
    assert row["terms"] == [asdict(term) for term in terms]


def test_terms_of_a_task_of_ones_own_have_no_maximum(capsys: pytest.CaptureFixture[str]) -> None:
    terms = (RewardTerm("correct", 1.0, None, ""), RewardTerm("short", 0.1, None, ""))
    files, asked = bare_node(), prompt("aa11")
    with books(files) as written:
        written.group(0, asked, {0: local("<answer>tac</answer>")}, {0: replace(RIGHT, terms=terms)})
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    assert "      1.1 points: correct 1, short 0.1\n" in capsys.readouterr().out
    (row,) = shown(capsys)
    assert row["terms"] == [asdict(term) for term in terms]


def test_rewards_are_printed_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    written = min(str(row["time"]) for row in shown(capsys) if str(row["question"]).startswith("aa11"))
    at = datetime.fromisoformat(written).astimezone()
    assert lines[0] == f"round 1, answer, {at:%Y-%m-%d %H:%M:%S}: spelling, question aa1100000000"
    assert lines[1:5] == [
        "  system:",
        "    | Answer.",
        "  user:",
        "    | Spell cat backwards.",
    ]
    assert lines[5].startswith(
        "  [0] correct (outcome 1: equal to the answer), in the requested format; by this node (tiny)"
    )
    assert lines[6] == "    | <answer>tac</answer>"
    assert lines[7].startswith("  [1] wrong (outcome 0: no readable answer), not in the requested format; by this ")
    assert lines[11].startswith(
        "  [3] partly correct (outcome 0.5: one digit is off), in the requested format; by openai "
        "(gpt-4o-mini-2024-07-18), teacher, 0.001 USD"
    )
    assert "  [0] not verified; by openai (gpt-4o-mini-2024-07-18), teacher" in out
    assert lines[-1] == "  [1] lost: nothing usable from openai:gpt-4o-mini in 4 requests"


def test_a_teachers_answer_that_was_cut_to_its_tags_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node("maths")) as written:
        asked = prompt("cc33" + "0" * 60)
        written.api(0, asked, [sent(0, "Sure! <answer>tac</answer>"), sent(1, "<answer>tac</answer>")], {})
        written.score(0, asked, {0: RIGHT, 1: RIGHT})
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    first, second = [line for line in capsys.readouterr().out.splitlines() if "correct (" in line]
    assert "in the requested format only after conversion for training, shown here as received; by openai" in first
    assert "in the requested format; by openai (gpt-4o-mini-2024-07-18), teacher" in second


def test_hints_are_shown_before_the_answers_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node("maths")) as written:
        helped, told = prompt("aa11"), prompt("bb22", "Spell dog backwards.")
        hinted = replace(local("<answer>tac</answer>"), kind=Kind.HINTED)
        written.group(0, helped, {0: local("cat"), 1: hinted, 2: hinted}, {0: WRONG, 1: RIGHT, 2: RIGHT})
        written.group(1, told, {0: local("dog")}, {0: WRONG})
        written.api(0, replace(helped, stage="hint"), [sent(0, "Start at\x1b[2J its end.")], {})
        written.api(1, replace(told, stage="hint"), [sent(0, "It is god.")], {0: GIVES_AWAY})
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  hint from openai, gpt-4o-mini-2024-07-18, 0.001 USD:")
    assert lines[at + 1] == "    | Start at its end."
    assert lines[at + 2].startswith(
        "  [1] correct (outcome 1: equal to the answer), in the requested format; by local (tiny), hinted, 0 USD"
    )
    assert lines[at + 4].startswith("  [2] correct")
    assert lines[-3:] == [
        "  hint from openai, gpt-4o-mini-2024-07-18, 0.001 USD:",
        "    | It is god.",
        "  [1] lost: the hint is refused for giving the answer away",
    ]
    rows = shown(capsys)
    assert [row["hint"] for row in rows] == [None, *["Start at\x1b[2J its end."] * 2, None, "It is god."]
    assert [row["stage"] for row in rows] == ["answer"] * 5
    assert [row["place"] for row in shown(capsys, "--source", "hinted")] == [1, 2]


def test_json_has_the_same_keys_for_every_rollout(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    rows = shown(capsys)
    assert [(row["round"], row["place"], row["provider"]) for row in rows] == [
        *[(1, 0, "local"), (1, 1, "local"), (1, 2, "openai"), (1, 3, "openai"), (2, 0, "openai"), (2, 1, None)],
    ]
    own, unverified, gone = rows[0], rows[4], rows[5]
    assert (own["model"], own["usd"], own["strict"], own["outcome"]) == ("tiny", 0.0, True, 1.0)
    assert own["messages"] == [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Spell cat backwards."},
    ]
    assert str(own["time"]).endswith("Z")
    assert unverified["outcome"] is unverified["strict"] is unverified["why"] is None
    assert gone["lost"] == "nothing usable from openai:gpt-4o-mini in 4 requests"
    assert gone["text"] is gone["usd"] is gone["time"] is gone["truncated"] is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--last", "2"], [(2, 0), (2, 1)]),
        (["--last", "3"], [(1, 3), (2, 0), (2, 1)]),
        (["--round", "1", "--source", "teacher"], [(1, 2), (1, 3)]),
        (["--source", "openai"], [(1, 2), (1, 3), (2, 0)]),
        (["--source", "local", "--last", "1"], [(1, 1)]),
        (["--question", "bb22"], [(2, 0), (2, 1)]),
        (["--question", "b", "--round", "1"], []),
        (["--round", "7"], []),
    ],
)
def test_filters(arguments: list[str], expected: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    assert [(row["round"], row["place"]) for row in shown(capsys, *arguments)] == expected


def test_no_matching_rollouts_is_reported_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    assert cli.run(["rollouts", "show", "--round", "7"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert (out, err) == ("", "No matching rollouts in node maths.\n")


def test_hostile_text_keeps_to_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07one\r\n  [9] correct (outcome 1)\u202e\x9b1m\x00"
    with books(bare_node()) as written:
        written.group(0, prompt("aa", hostile), {0: local(hostile)}, {0: RIGHT})
        written.api(0, prompt("bb"), [sent(0, "x", model="gpt\x1b[31m\n  [8] correct")], {})
    assert cli.run(["rollouts", "show", "--full"]) == Exit.DONE
    out = capsys.readouterr().out
    assert not set("\x1b\r\x07\x9b\x00\u202e") & set(out)
    lines = out.splitlines()
    assert [line for line in lines if "[9]" in line] == ["    |   [9] correct (outcome 1)1m"] * 2
    assert not [line for line in lines if line.startswith("  [8]")]


def test_the_middle_of_a_long_text_is_left_out_without_full(capsys: pytest.CaptureFixture[str]) -> None:
    text = "begin " + "x" * 5000 + " end"
    many = "\n".join(f"line {number}" for number in range(30))
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {0: local(text), 1: local(many)}, {0: PARTLY, 1: PARTLY})
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    out = capsys.readouterr().out
    assert text[:HEAD] in out
    assert text[-TAIL:] in out
    assert f"{len(text) - HEAD - TAIL:,} characters omitted; use --full to show them" in out
    assert "| line 7\n" in out
    assert "| line 8\n" not in out
    assert "| line 29\n" in out
    assert cli.run(["rollouts", "show", "--full"]) == Exit.DONE
    out = capsys.readouterr().out
    assert text in out
    assert "| line 15\n" in out
    assert shown(capsys, "--last", "2")[0]["text"] == text


def test_wrapped_lines_keep_their_mark() -> None:
    assert list(quoted("abcdefghijklmnopqrst", "| ", width=19, full=True)) == ["| abcdefghijklmnop", "| qrst"]
    assert list(quoted("漢" * 9, "| ", width=19, full=True)) == ["| " + "漢" * 8, "| 漢"]
    assert list(quoted("e\u0301" * 16, "| ", width=19, full=True)) == ["| " + "e\u0301" * 16]
    assert list(quoted("", "| ", width=19, full=True)) == ["|"]
    assert list(quoted("Think about the question", "| ", width=19, full=True)) == ["| Think about the", "| question"]
    assert list(quoted("a " + "b" * 20 + " c", "| ", width=19, full=True)) == ["| a " + "b" * 14, "| bbbbbb c"]


@pytest.mark.slow
def test_a_terminal_of_40_columns_is_enough() -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {0: local(" " * 34 + "[1] correct " + "y" * 100)}, {0: RIGHT})
    code, text = printed([*SWARMCTL, "rollouts", "show"], columns=40)
    assert code == Exit.DONE
    lines = text.splitlines()
    assert all(len(line) < 40 for line in lines), lines
    assert sum("y" * 10 in line for line in lines) == 4
    assert all(line.startswith("    | ") for line in lines if "y" * 10 in line)


def test_ascii_streams_get_ascii() -> None:
    mixed_node()
    done = subprocess.run(
        [*SWARMCTL, "rollouts", "show"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == Exit.DONE, done.stderr
    assert b"[3] partly correct" in done.stdout.decode("ascii").encode()


def test_a_running_node_can_be_read_without_disturbing_it(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node()
    with books(files) as written:
        written.group(0, prompt("aa"), {0: local("one")}, {0: RIGHT})
        before = contents(files.root)
        assert [row["text"] for row in shown(capsys)] == ["one"]
        assert contents(files.root) == before
        written.group(1, prompt("bb"), {0: local("two")}, {0: RIGHT})
        assert [row["text"] for row in shown(capsys)] == ["one", "two"]
        for command in (["stats"], ["export"]):
            assert cli.run(["rollouts", *command]) == Exit.DONE
        written.bill(1, prompt("bb"), 0.001)


def test_a_read_only_disk_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted_disk(tmp_path, "8m") as place:
        monkeypatch.setenv("SWARMCTL_HOME", str(place))
        files = mixed_node()
        assert not Path(f"{files.journal}-wal").exists()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert len(shown(capsys)) == 6


def test_nodes_without_rollouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rollouts", "show"]) == Exit.CONFIGURATION
    assert "no node has run yet" in capsys.readouterr().err
    files = bare_node()
    for command in (["show"], ["export"], ["stats"]):
        assert cli.run(["rollouts", *command, "--node", "math"]) == Exit.CONFIGURATION
        assert "did you mean maths?" in capsys.readouterr().err
        assert cli.run(["rollouts", *command, "--node", "maths"]) == Exit.FAILED
        err = capsys.readouterr().err
        assert "node maths has no rollouts yet: it has not run a round" in err
        assert err.splitlines()[1].endswith("swarmctl run --node maths")
    files.journal.write_bytes(b"this is no database, but long enough to be read as one" * 50)
    assert cli.run(["rollouts", "show", "--json"]) == Exit.FAILED
    error = json.loads(capsys.readouterr().out)["error"]
    assert "cannot read" in error["message"]
    assert error["next"].startswith("ls -l ")


PEER = "12D3KooWFbd7rknCRJwDxR2p9qhgWJQkPyVomBwzawWhYmijoE8x"


def peer_group(asked: str, *texts: str, model: str | None = "tiny") -> Group:
    rollouts = tuple(Rollout(Kind.PEER, PEER, text, (1,), False, lag=None, model=model) for text in texts)
    return Group(prompt(asked), rollouts, (RIGHT, WRONG)[: len(texts)])


def test_peers_rollouts_are_shown_next_to_the_nodes_own(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node()
    with books(files) as written:
        written.group(0, prompt("aa"), {0: local("<answer>tac</answer>")}, {0: RIGHT})
    with closing(PeerDrawLog(files.journal, SWARM)) as drawn:
        drawn.write(0, "answer", [peer_group("aa", "theirs", "cat"), peer_group("bb", "x", model=None)], -1.0)
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines if line.startswith("  [")] == [
        "  [0] correct (outcome 1: equal to the answer), in the requested format",
        "  [0] correct (outcome 1: equal to the answer), in the requested format",
        "  [1] wrong (outcome 0: no readable answer), not in the requested format",
        "  [0] correct (outcome 1: equal to the answer), in the requested format",
    ]
    assert f"by peer {animal_name(PEER)} (…{PEER[-8:]}) (says it used tiny)" in lines[7]
    assert f"by peer {animal_name(PEER)} (…{PEER[-8:]}) (names no model)" in lines[-2]
    rows = shown(capsys, "--source", "peer")
    assert [(row["question"], row["place"], row["text"], row["provider"]) for row in rows] == [
        *[("aa", 0, "theirs", PEER), ("aa", 1, "cat", PEER), ("bb", 0, "x", PEER)],
    ]


def test_hostile_text_of_a_peer_keeps_to_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07one\r\n  [9] correct (outcome 1)\u202e\x9b1m\x00"
    files = bare_node()
    with books(files), closing(PeerDrawLog(files.journal, SWARM)) as drawn:
        drawn.write(0, "answer", [peer_group("aa", hostile, hostile, model="tiny\x1b[31m\n  [8] correct")], None)
    assert cli.run(["rollouts", "show"]) == Exit.DONE
    out = capsys.readouterr().out
    assert not set("\x1b\r\x07\x9b\x00\u202e") & set(out)
    assert [line for line in out.splitlines() if line.startswith(("  [8]", "  [9]"))] == []
    assert "    |   [9] correct (outcome 1)" in out


def test_an_unknown_source_is_an_error_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    for command in ("show", "export"):
        assert cli.run(["rollouts", command, "--source", "teecher"]) == Exit.USAGE
        assert "unknown source 'teecher'; did you mean teacher?" in capsys.readouterr().err
    assert cli.run(["rollouts", "show", "--source", "deepseek"]) == Exit.DONE  # known, but there is none
    assert "No matching rollouts" in capsys.readouterr().err
