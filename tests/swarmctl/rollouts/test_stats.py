"""``swarmctl rollouts stats``: counts from the journal and the ledger, by key and in total."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from hivemind_exp.offload.ledger import RequestKey
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage import node_lock as locks
from tests.support.command_line import SWARMCTL
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, endpoint, engine, order
from tests.support.fake_api.server import api_server
from tests.support.journals import RIGHT, WRONG, bare_node, books, local, mixed_node, prompt, sent
from tests.support.terminals import printed

KEYS = [
    *("provider", "model", "stage", "requests", "prompt_tokens", "completion_tokens", "usd", "usd_unsettled"),
    *("completions", "verified", "correct", "share_correct", "lost"),
]


UNUSED = (
    "not verified: the node did not use them, and its warnings say why. The usual reason is that they are too long for "
    "it: raise generation.max_completion_tokens, or choose a model that writes shorter answers."
)
LEFT_OUT = "The share of correct ones leaves them out."


def counted(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.run(["rollouts", "stats", "--json", *arguments]) == Exit.DONE
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "node", "by", "stats", "total"]
    assert all(list(row) == KEYS for row in [*document["stats"], document["total"]])
    return document


def test_local_and_remote_rollouts_are_counted_separately(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    document = counted(capsys)
    own, remote = document["stats"]
    assert (document["schema"], document["node"], document["by"]) == (1, "maths", ["provider", "model", "stage"])
    assert own == {
        "provider": "local",
        "model": "tiny",
        "stage": "answer",
        "requests": None,
        "prompt_tokens": None,
        "completion_tokens": 8,
        "usd": 0.0,
        "usd_unsettled": 0.0,
        "completions": 2,
        "verified": 2,
        "correct": 1,
        "share_correct": 0.5,
        "lost": 0,
    }
    assert remote == {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "stage": "answer",
        "requests": 3,
        "prompt_tokens": 200,
        "completion_tokens": 20,
        "usd": pytest.approx(0.003),
        "usd_unsettled": pytest.approx(0.01),
        "completions": 3,
        "verified": 2,
        "correct": 1,
        "share_correct": 0.5,
        "lost": 1,
    }
    assert (document["total"]["completions"], document["total"]["requests"]) == (5, 3)
    assert document["total"]["provider"] is None


def test_other_keys_are_summed(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    rows = counted(capsys, "--by", "stage")["stats"]
    assert [(row["provider"], row["model"], row["stage"], row["completions"]) for row in rows] == [
        (None, None, "answer", 5)
    ]
    assert counted(capsys, "--by", " model , provider")["by"] == ["provider", "model"]
    assert cli.run(["rollouts", "stats", "--by", "modle"]) == Exit.USAGE
    assert "did you mean model?" in capsys.readouterr().err


def test_unknown_is_null_and_never_0(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        asked = prompt("aa")
        written.bill(0, asked, None)
        written.api(0, asked, [], {0: "nothing usable"})
        written.journal.write_prompts(0, [asked])
    (row,) = counted(capsys)["stats"]
    assert (row["requests"], row["prompt_tokens"], row["usd"], row["usd_unsettled"]) == (1, None, 0.0, 0.01)
    assert (row["completions"], row["share_correct"], row["lost"]) == (0, None, 1)


def test_without_a_ledger_requests_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    files = mixed_node()
    files.ledger.unlink()
    rows = {row["provider"]: row for row in counted(capsys)["stats"]}
    own, remote, gone = rows["local"], rows["openai"], rows[None]
    assert (own["provider"], own["usd"]) == ("local", 0.0)
    assert (remote["provider"], remote["model"]) == ("openai", "gpt-4o-mini-2024-07-18")
    assert (remote["requests"], remote["usd"], remote["completion_tokens"]) == (None, None, None)
    assert (gone["provider"], gone["model"], gone["lost"]) == (None, None, 1)


def test_two_models_of_one_provider_are_counted_separately(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        one, both, odd = prompt("aa"), prompt("bb"), prompt("cc")
        written.bill(0, one, 0.001, model="gpt-4o")
        written.api(0, one, [sent(0, "x", model="anything")], {})
        for model in ("gpt-4o", "gpt-4o-mini"):
            written.bill(0, both, 0.001, model=model)
            written.bill(0, odd, 0.001, model=model)
        answers = [sent(0, "x", model="gpt-4o-2024-08-06"), sent(1, "x", model="gpt-4o-mini-2024-07-18")]
        written.api(0, both, answers, {2: "nothing usable"})
        written.api(0, odd, [sent(0, "x", model="other")], {})
    rows = counted(capsys, "--by", "model")["stats"]
    assert [(row["model"], row["requests"], row["completions"], row["lost"]) for row in rows] == [
        ("gpt-4o", 3, 2, 0),
        ("gpt-4o-mini", 2, 1, 1),
        ("other", None, 1, 0),
    ]


def test_rejected_requests_cost_nothing_but_open_ones_may(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        ask = RequestKey("openai", "m", 0, "answer", "aa", 1)
        written.ledger.release(written.ledger.reserve(ask, 0.5), "HTTP 429")
        written.ledger.reserve(ask, 0.25)
        (row,) = counted(capsys)["stats"]
    assert (row["requests"], row["usd"], row["usd_unsettled"]) == (1, 0.0, 0.25)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    heading, own, remote, whole = capsys.readouterr().out.splitlines()
    assert heading.split()[:7] == ["provider", "model", "stage", "requests", "tokens", "in", "tokens"]
    assert heading.split()[7:] == ["out", "USD", "unsettled", "completions", "correct", "lost"]
    assert own.split() == ["local", "tiny", "answer", "-", "-", "8", "0", "-", "2", "50", "%", "-"]
    assert remote.split() == (
        ["openai", "gpt-4o-mini", "answer", "3", "200", "20", "0.003", "0.01", "3", "50", "%", "1"]
    )
    assert whole.split() == ["total", "3", "200", "28", "0.003", "0.01", "5", "50", "%", "1"]
    assert len({len(line) for line in (heading, own, remote, whole)}) == 1


def test_the_test_request_has_a_row_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.ledger.reserve(RequestKey("openai", "m", -1, "probe", "", 1), 0.25)
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    assert " m      test request  " in capsys.readouterr().out


def test_what_did_not_happen_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("bb"), {0: local("x")}, {0: WRONG})
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.split() == ["provider", "model", "stage", "tokens", "out", "USD", "completions", "correct"]


@pytest.mark.slow
def test_a_narrow_terminal_gets_lists_instead_of_a_table() -> None:
    mixed_node()
    code, text = printed([*SWARMCTL, "rollouts", "stats"], columns=40)
    assert code == Exit.DONE
    assert "  provider openai\r\n  model gpt-4o-mini\r\n" in text
    assert all(len(line) < 40 for line in text.splitlines())


def test_a_model_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.api(0, prompt("aa"), [sent(0, "x", model="gpt\x1b[31m\nlocal")], {})
        written.group(0, prompt("bb"), {0: local("x")}, {0: WRONG})
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 4


@pytest.mark.slow
def test_counts_match_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node()
    with api_server(fault_rate=0.3, seed=3) as server, engine(files.root, endpoint(server.base_url)) as rig:
        rig.run([order(number) for number in range(12)])
    document = counted(capsys, "--by", "provider")
    (row,) = document["stats"]
    assert row["provider"] == "box"
    assert row["completions"] + row["lost"] == 12 * 4
    spent = server.usd(PRICE_IN, PRICE_OUT)
    assert row["usd"] <= spent + 1e-12
    assert row["usd"] + row["usd_unsettled"] >= spent - 1e-12
    assert document["total"]["requests"] == row["requests"]


def test_the_share_right_counts_only_verified_completions(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {n: local("x") for n in range(3)}, {0: RIGHT, 1: WRONG})
    (row,) = counted(capsys)["stats"]
    assert (row["completions"], row["verified"], row["correct"], row["share_correct"]) == (3, 2, 1, 0.5)
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    assert capsys.readouterr().err == f"1 of 3 completions {UNUSED}\n{LEFT_OUT}\n"


def test_completions_of_an_open_round_are_told_apart_from_those_the_node_did_not_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with books(bare_node()) as written:
        written.group(3, prompt("aa"), {n: local("x") for n in range(3)}, {0: RIGHT})
        written.group(3, prompt("bb"), {n: local("x") for n in range(2)}, {})  # none of this group was used
        written.group(3, prompt("cc", stage="critique"), {0: local("x")}, {})
        written.group(4, prompt("dd"), {n: local("x") for n in range(5)}, {})
        written.group(2, prompt("ee", stage="hint"), {0: local("x")}, {})
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    pending = "6 of 12 completions not verified yet: they are verified at the end of their round."
    assert capsys.readouterr().err == f"{pending}\n4 of 12 completions {UNUSED}\n{LEFT_OUT}\n"


def test_completions_of_the_first_round_are_not_verified_yet(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {0: local("x")}, {})
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    pending = "1 of 1 completion not verified yet: they are verified at the end of their round."
    assert capsys.readouterr().err == f"{pending}\n{LEFT_OUT}\n"


def test_nothing_is_said_if_all_completions_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {0: local("x")}, {0: RIGHT})
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    assert not capsys.readouterr().err


def test_requests_in_flight_are_told_apart_while_the_node_runs(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node()
    with books(files) as written:
        written.ledger.reserve(RequestKey("openai", "m", 0, "answer", "aa", 1), 0.25)
        written.ledger.reserve(RequestKey("openai", "m", 0, "answer", "bb", 1), 0.25)
    assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    assert "in flight" not in capsys.readouterr().err
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT)
    try:
        assert locks.acquire(lock)
        assert cli.run(["rollouts", "stats", "maths"]) == Exit.DONE
    finally:
        os.close(lock)
    assert capsys.readouterr().err == (
        "2 requests in flight. The live view counts only requests of its run that have ended.\n"
    )


def test_the_latest_node_is_named_and_an_empty_table_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        assert cli.run(["rollouts", "stats"]) == Exit.DONE
        assert capsys.readouterr() == ("", "No rollouts in node maths.\n")
        written.group(0, prompt("aa"), {0: local("x")}, {0: RIGHT})
    assert cli.run(["rollouts", "stats"]) == Exit.DONE
    table, said = capsys.readouterr()
    assert table.startswith("provider ")
    assert said == "Node maths (the latest):\n"
