"""``swarmctl run --offload`` as a user types it: real trainer, real server, real terminal."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from swarmctl.errors import Exit
from tests.support import forked_swarmctl
from tests.support.absent import API_CLIENTS, without
from tests.support.command_line import STAND_IN, told
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.offload_runs import KEY, PRICED, events, profile, spelled, started, swarmctl, untrained
from tests.support.teachers import grade
from tests.support.terminals import rest_of, spawn

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


def test_groups_are_split_and_billed_and_off_generates_locally_again(home: Path) -> None:
    with api_server(answer=spelled) as server:
        profile(home, server)
        done = swarmctl("--offload", "mybox", "--set", "offload.share=0.5", "--max-usd", "1", "--json", *PRICED)
        bill, asked = server.usd(2.0, 8.0), len(server.ledger.chats)
        local = swarmctl("--node", "small", "--offload", "off", "--rounds", "5", "--json")
        assert len(server.ledger.chats) == asked
    assert local.returncode == Exit.DONE, local.stderr
    assert json.loads(local.stdout)["rollouts"] == {"policy": 16}
    assert done.returncode == Exit.DONE, done.stderr
    result = json.loads(done.stdout)
    assert result["rollouts"] == {"policy": 12, "teacher": 12}
    assert result["steps"] == 3
    assert "it generates 50 % of each group. Used as teacher: supervised learning" in done.stderr
    assert f"Prompts go to 127.0.0.1:{server.url.rsplit(':', 1)[1]}" in done.stderr
    assert sum(event["usd"] for event in events(home, "spend")) == pytest.approx(bill)
    assert {event["tokens_per_second"] for event in events(home, "round")[:3]} == {None}
    # The untrained model is never correct, so only the teacher's correct rows weigh anything.
    assert [(event["source"], event["rows"]) for event in events(home, "step")][:3] == [("teacher", 2)] * 3


def test_a_restart_continues_under_the_same_cap(home: Path) -> None:
    kept = ("--offload", "mybox", *PRICED, "--restart", "on-failure")
    again = {"STAND_IN": "first cut, then offload", "STAND_IN_PAUSE": "0.1"}
    with api_server(answer=spelled) as server:
        profile(home, server)
        done = started(*kept, "--max-usd", "1", program=STAND_IN, **again)
        bill = server.usd(2.0, 8.0)
        assert done.returncode == Exit.DONE, done.stderr
        assert done.stderr.count("Restarting in") == 1
        assert [event["usd_cap"] for event in events(home, "offload")] == [1.0, 1.0]
        assert 0 < bill <= events(home, "spend")[-1]["usd_total"] < 1  # what was in flight counts as spent
        asked = len(server.ledger.chats)
        capped = swarmctl("--node", "poor", *kept, "--max-usd", "0.0001", **again)
        assert capped.returncode == Exit.LIMIT, capped.stderr
        assert "Restarting" not in capped.stderr
        assert len(server.ledger.chats) == asked


def test_without_a_terminal_nothing_is_spent_without_consent(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        done = swarmctl("--offload", "mybox", *PRICED)
        assert server.ledger.chats == ()
    cause, following = told(done)
    assert "mybox:test-model costs money (per round: 8 requests" in cause
    assert cause.endswith("Set a spending cap with --max-usd to confirm")
    assert "--max-usd 5.00" in following
    assert done.returncode == Exit.CONFIGURATION
    assert not (home / "nodes").exists()


def test_an_unknown_price_is_refused_with_the_line_to_add(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        done = swarmctl("--offload", "mybox", "--max-usd", "1")
        cause, following = told(done)
        assert "the price of mybox:test-model is unknown" in cause
        assert "If it costs nothing, set providers.mybox.free = true" in cause
        assert "set offload.prices.mybox.input and offload.prices.mybox.output to the USD" in cause
        assert following.endswith("--set providers.mybox.free=true")
        daily = ("--max-usd", "unlimited", "--set", "offload.limits.usd_per_day=1")
        assert "the price of mybox:test-model is unknown" in told(swarmctl("--offload", "mybox", *daily))[0]
        assert untrained("--offload", "mybox", "--max-usd", "unlimited", "--rounds", "1").returncode == Exit.DONE


def test_a_free_provider_asks_nothing(home: Path) -> None:
    with api_server() as server:
        profile(home, server, free=True)
        done = untrained("--offload", "mybox:test-model")
        assert len(server.ledger.chats) == 1 + 3 * 2 * 4
    assert done.returncode == Exit.DONE, done.stderr


def test_a_missing_key_is_named_with_the_command_that_saves_it(home: Path) -> None:
    with api_server(keys={KEY}) as server:
        profile(home, server, free=True, needs_key=True)
        cause, following = told(swarmctl("--offload", "mybox"))
        assert "no key for mybox" in cause
        assert following.endswith(f"keys set mybox --host {server.base_url}")
        cause, following = told(swarmctl("--offload", "openai"))  # before anything is said about its cost
    assert "no key for openai" in cause
    assert following.endswith("keys set openai")


def test_reaching_the_cap_ends_the_run_with_its_exit_code(home: Path) -> None:
    with api_server(answer=spelled) as server:
        profile(home, server)
        done = swarmctl("--offload", "mybox", "--max-usd", "0.02", "--rounds", "500", *PRICED)
        assert server.usd(2.0, 8.0) <= 0.02
    assert done.returncode == Exit.LIMIT, done.stderr
    assert "Limit reached" in done.stderr
    assert "run --node small --max-usd 0.16" in done.stderr


def test_first_run_on_a_terminal(home: Path) -> None:
    """Without key and consent, it shows the cost and asks once, prompts for the key, tests and saves it, and runs."""
    with api_server(keys={KEY}, answer=spelled) as server:
        profile(home, server, needs_key=True)
        command = [*STAND_IN, "run", "-p", "small", "--offload", "mybox", "--plain", *PRICED]
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        environment |= {"TERM": "xterm", "STAND_IN": "offload"}
        terminal = spawn(command, environment=environment, rows=30, timeout=60)
        # The line breaks depend on the port's length.
        terminal.expect(r"costs\s+money,\s+and\s+prompts\s+go\s+to\s+127.0.0.1:.*Per\s+round:\s+8\s+requests.*Continue")
        terminal.sendline("y")
        terminal.expect("No key for mybox yet")
        terminal.expect(r"Store keys in\s+a\s+file .*N. ")
        terminal.sendline("y")
        terminal.expect("Key for mybox .*not shown: ")
        terminal.sendline(KEY)
        terminal.expect("Tested: valid")
        terminal.expect("Key mybox ····77aa from 0600 file")
        terminal.expect("Done after 3 rounds")
        rest_of(terminal)
        assert terminal.exitstatus == Exit.DONE
        assert KEY not in str(terminal.before)
        again = untrained("--offload", "mybox", "--rounds", "4", *PRICED)
        assert again.returncode == Exit.DONE, again.stderr
    assert {entry.key for entry in server.ledger.chats} == {KEY}


def test_no_to_the_cost_sends_nothing_and_is_no_error(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        terminal = spawn([*STAND_IN, "run", "-p", "small", "--offload", "mybox", *PRICED])
        terminal.expect("Continue")
        terminal.sendline("n")
        text = rest_of(terminal)
        assert server.ledger.entries == ()
    assert text.endswith("\r\nCancelled. Nothing was sent.\r\n")
    assert terminal.exitstatus == Exit.INTERRUPTED
    assert not (home / "nodes").exists()


def test_a_dry_run_reports_and_sends_no_request(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        done = swarmctl("--offload", "mybox", "--max-usd", "1", "--dry-run", "--json", *PRICED)
        assert server.ledger.entries == ()
    found = json.loads(done.stdout)["check"]["offload"]
    assert found["missing_keys"] == []
    assert (found["provider"], found["kind"], found["usd_cap"]) == ("mybox", "teacher", 1.0)
    assert found["round"]["requests"] == 8
    assert 0 < found["round"]["usd"] < found["round"]["usd_at_most"]
    assert not (home / "nodes").exists()


def test_a_dry_run_reports_a_missing_key(home: Path, tmp_path: Path) -> None:
    with api_server() as server:
        profile(home, server, needs_key=True)
        command = ("--offload", "mybox", "--dry-run", *PRICED)
        done = swarmctl(*command)
        as_json = swarmctl(*command, "--json")
        path = tmp_path / "key"
        path.write_text(KEY)
        with_key = swarmctl(*command, SWARMCTL_MYBOX_API_KEY_FILE=str(path))
    assert (done.returncode, as_json.returncode) == (Exit.DONE, Exit.DONE)
    _, _, after = done.stdout.partition("key       no key for mybox; save one with:\n  ")
    assert after.splitlines()[0].endswith(f"keys set mybox --host {server.base_url}")
    assert json.loads(as_json.stdout)["check"]["offload"]["missing_keys"] == ["mybox"]
    assert "\nkey " not in with_key.stdout


JUDGED = """
[judge]
provider = "grader"
[offload]
provider = "mybox"
share = 0.5
[offload.prices]
mybox = {{ input = 2, output = 8 }}
grader = {{ input = 5, output = 20 }}
[providers.grader]
base_url = "{url}"
model = "test-model"
needs_key = {needs_key}
"""


def test_a_node_generates_with_one_provider_and_lets_another_grade_under_one_cap(home: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    with api_server(answer=spelled, keys={KEY}) as server, api_server(answer=grade, keys={KEY}) as judge:
        profile(home, server, needs_key=True)
        with (home / "profiles" / "small.toml").open("a") as file:
            file.write(JUDGED.format(url=judge.base_url, needs_key="true"))
        found = {"SWARMCTL_MYBOX_API_KEY_FILE": str(key), "SWARMCTL_GRADER_API_KEY_FILE": str(key)}
        dry = swarmctl("--dry-run", "--json", SWARMCTL_MYBOX_API_KEY_FILE=str(key))
        plan = json.loads(dry.stdout)["check"]
        assert [(plan[use]["provider"], plan[use]["round"]["requests"]) for use in ("offload", "judge")] == [
            ("mybox", 4),
            ("grader", 4),
        ]
        assert [plan[use]["missing_keys"] for use in ("offload", "judge")] == [[], ["grader"]]
        refused = swarmctl("--no-input", **found)
        assert (refused.returncode, refused.stdout) == (Exit.CONFIGURATION, "")
        assert "error: mybox:test-model and grader:test-model cost money" in refused.stderr
        assert server.ledger.entries == judge.ledger.entries == ()
        done = swarmctl("--max-usd", "1", **found)
        bills = {"mybox": server.usd(2.0, 8.0), "grader": judge.usd(5.0, 20.0)}
    assert done.returncode == Exit.DONE, done.stderr
    assert "Offloading to mybox:test-model: it generates 50 % of each group." in done.stderr
    assert "grader:test-model grades each of this node's completions, for a reward of up to 0.2." in done.stderr
    assert "In this run, the API generated 50 % of the verified completions, this machine 50 %." in done.stderr
    assert re.search(r"The judge graded \d+ of this machine's 12 completions\.", done.stderr)
    counted = json.loads(forked_swarmctl.swarmctl("rollouts", "stats", "small", "--by", "provider", "--json").stdout)
    usd = {row["provider"]: row["usd"] for row in counted["stats"] if row["provider"] != "local"}
    assert usd == pytest.approx(bills, abs=1e-9)
    (status,) = json.loads(forked_swarmctl.swarmctl("status", "small", "--json").stdout)["nodes"]
    assert status["usd_total"] == pytest.approx(sum(bills.values()), abs=1e-7)
    assert status["usd_cap"] == 1.0


def test_contradictory_settings_are_refused_immediately(home: Path) -> None:
    with api_server() as server:
        profile(home, server, free=True)
        for setting, said in {
            "offload.batch=true": "has no Batch API",
            "train.teacher_loss=luffy": "luffy compares",
        }.items():
            cause, following = told(swarmctl("--offload", "mybox", "--set", setting))
            assert said in cause
            assert "--offload mybox" in following
        assert server.ledger.entries == ()
    cause, following = told(swarmctl("--offload", "opnai"))
    assert "did you mean openai?" in cause
    assert following.endswith("--profile small --offload openai")
    cause, _ = told(swarmctl("--offload", "deepseek", "--set", "offload.kind=policy_text"))
    assert "serves only its own models" in cause


def test_an_outage_is_reported_once(home: Path) -> None:
    with api_server() as server:
        profile(home, server, free=True)
        server.set(predicate=_dies_after(12))
        done = untrained("--offload", "mybox")
    assert done.returncode == Exit.DONE, done.stderr
    assert done.stderr.count("falling back to this machine until mybox is available again") == 1


def _dies_after(count: int) -> Any:
    asked = iter(range(10_000))

    def decide(_ask: object) -> Fault | None:
        return None if next(asked) < count else Fault.NO_CREDIT

    return decide


def test_the_plan_mentions_that_only_failed_groups_cost(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        failed = ("--set", "offload.when=failed", "--set", "offload.share=0.5")
        done = untrained("--offload", "mybox", "--max-usd", "1", *failed, *PRICED)
    assert done.returncode == Exit.DONE, done.stderr
    assert "it only generates groups in which none of this machine's completions is correct" in done.stderr


def test_a_relay_generates_and_verifies_without_a_model(home: Path) -> None:
    with api_server(answer=spelled) as server:
        profile(home, server, free=True)
        relay = ("--offload", "mybox", "--set", "offload.kind=relay", "--json", "--model", "no/such-model")
        done = swarmctl(*relay, "--set", "warmup.steps=0")
    assert done.returncode == Exit.DONE, done.stderr
    result = json.loads(done.stdout)
    assert (result["rollouts"], result["accuracy_before"]) == ({"relay": 24}, None)
    assert [event["correct"] for event in events(home, "rollouts")] == [4, 4, 4]
    assert events(home, "step") == []


def test_only_runs_that_offload_need_openai(home: Path, tmp_path: Path) -> None:
    """``test_with_trainer`` starts a run that offloads nothing."""
    with api_server() as server:
        profile(home, server, free=True)
    absent = without(tmp_path, *API_CLIENTS)
    cause, following = told(started("--offload", "mybox", program=STAND_IN, STAND_IN="offload", **absent))
    assert "openai" in cause
    assert "pip install" in following
