"""``swarmctl init``: the dialogue on a real terminal, with a stand-in trainer and a test server as the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmctl.errors import Exit
from swarmctl.init.questions import suggested_name
from tests.support.command_line import Cli, told, write_profile
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.init_dialogue import (
    API,
    BASE,
    DEMO,
    KEY,
    PLACES,
    config_of,
    converse,
    ended,
    init,
    model_of,
    stopped,
    written,
)
from tests.support.terminals import expect_words, interrupt, rest_of

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("no_leftovers")


@slow
def test_enter_at_every_question_leads_to_a_running_node(home: Path) -> None:
    terminal = init()
    converse(terminal, *DEMO)
    for line in (
        "Checking this machine:",
        "checks passed. To see every result:",
        f"Wrote {home}/profiles/my-demo.toml.",
        "The plan:",
        f"node      my-demo (new): {home}/nodes/my-demo",
    ):
        expect_words(terminal, line)
    converse(terminal, ("Start node my-demo now? [Y/n] ", ""))
    expect_words(terminal, "Node my-demo (new): GRPO on tiny")
    code, lines = ended(terminal)
    assert code == Exit.DONE, lines
    assert any("Done after 80 rounds" in line for line in lines)
    assert written(home, "my-demo")["game"] == {"rounds": 80, "groups": 16, "group_size": 8}
    assert config_of(home, "my-demo")["game"]["rounds"] == 80


@slow
def test_no_at_the_end_prints_the_command_that_starts_the_node(home: Path, weights: Path, stand_in: Cli) -> None:
    terminal = init()
    converse(
        terminal,
        *model_of(weights),
        (API, ""),
        ("[small-model]: ", "maths"),
        ("Start node maths now? [Y/n] ", "maybe"),
        ("Answer y or n.\r\nStart node maths now? [Y/n] ", "n"),
    )
    code, (later, command) = ended(terminal)
    assert (code, later) == (Exit.DONE, "To start the node later:")
    assert command.endswith("swarmctl run --profile maths")
    assert not (home / "nodes").exists()
    assert written(home, "maths")["model"]["name"] == str(weights)
    assert written(home, "maths")["tasks"] == ["bf"]
    done = stand_in(*command.split()[-3:], "--rounds", "2")
    assert done.returncode == Exit.DONE, done.stderr


@slow
@pytest.mark.parametrize("cap", ["", "2"])
def test_an_api_is_paid_only_after_a_typed_yes_which_is_not_asked_for_twice(
    cap: str, home: Path, weights: Path, server: ApiServer
) -> None:
    terminal = init(server, OPENAI_API_KEY=KEY)
    amount = f"{cap or 5}.00 USD"
    converse(terminal, *model_of(weights), (API, "openai"), ("USD [5]: ", cap), ("[small-model]: ", "maths"))
    expect_words(terminal, "openai.service: key accepted")
    expect_words(terminal, "Key openai: ····77aa from $OPENAI_API_KEY.")
    expect_words(terminal, "cost      Per round: ")
    question = f"Start node maths now, and let it spend up to {amount} at openai? [y/N] "
    converse(terminal, (question, "y"))
    assert "[y/N]" not in stopped(terminal)
    assert config_of(home, "maths")["offload"]["provider"] == "openai"
    assert config_of(home, "maths")["offload"]["limits"]["usd"] == float(cap or 5)
    # A cap that was typed is in the profile, where it counts as consent.
    assert written(home, "maths")["offload"].get("limits") == ({"usd": 2} if cap else None)


@slow
def test_enter_at_the_question_about_money_starts_nothing(
    home: Path, weights: Path, server: ApiServer, stand_in: Cli
) -> None:
    terminal = init(server, OPENAI_API_KEY=KEY)
    converse(
        terminal, *model_of(weights), (API, "openai"), ("USD [5]: ", ""), ("[small-model]: ", "maths"), ("[y/N] ", "")
    )
    code, (later, _) = ended(terminal)
    assert (code, later) == (Exit.DONE, "To start the node later:")
    assert not (home / "nodes").exists()
    assert server.ledger.chats == ()
    done = stand_in("run", "--profile", "maths", STAND_IN_OPENAI=server.base_url, OPENAI_API_KEY=KEY)
    assert "costs money" in told(done)[0], "the run asks for consent itself"


@slow
def test_a_missing_key_is_saved_and_tested(home: Path, weights: Path, server: ApiServer) -> None:
    terminal = init(server)
    converse(
        terminal,
        *model_of(weights),
        (API, "openai"),
        ("USD [5]: ", "0.5"),
        ("[small-model]: ", "maths"),
        ("No key for openai yet. Save one now? [Y/n] ", ""),
        ("Store keys in a file that only you can read (mode 0600, not encrypted)? [y/N] ", "y"),
        ("not shown: ", "mk-Someone-elses-key"),
        ("refused this key for openai", ""),
        ("Store keys in a file that only you can read (mode 0600, not encrypted)? [y/N] ", "y"),
        ("not shown: ", KEY),
    )
    expect_words(terminal, "Saved key openai ····77aa")
    expect_words(terminal, "Checking the API:")
    expect_words(terminal, "openai.service: key accepted")
    converse(terminal, ("[y/N] ", "y"))
    stopped(terminal)
    assert config_of(home, "maths")["offload"]["limits"]["usd"] == 0.5
    assert KEY not in (home / "profiles/maths.toml").read_text()


@slow
def test_without_the_key_the_node_can_be_started_later(home: Path, weights: Path, server: ApiServer) -> None:
    terminal = init(server)
    converse(
        terminal,
        *model_of(weights),
        (API, "openai"),
        ("USD [5]: ", ""),
        ("[small-model]: ", "maths"),
        ("Save one now? [Y/n] ", ""),
        ("[y/N] ", "n"),
        ("Cancelled. No key was saved.\r\nTry again? [Y/n] ", "n"),
    )
    code, (later, first, second) = ended(terminal)
    assert (code, later) == (Exit.DONE, "To start the node later:")
    assert first.endswith("swarmctl keys set openai")
    assert second.endswith("swarmctl run --profile maths")
    assert server.ledger.entries == ()


@slow
def test_a_key_without_access_to_the_model_ends_before_the_plan(home: Path, weights: Path) -> None:
    with api_server(keys={KEY}, models=("other",)) as server:
        terminal = init(server)
        converse(
            terminal,
            *model_of(weights),
            (API, "openai"),
            ("USD [5]: ", ""),
            ("[small-model]: ", "maths"),
            ("Save one now? [Y/n] ", ""),
            ("[y/N] ", "y"),
            ("not shown: ", KEY),
        )
        code, lines = ended(terminal)
    assert code == Exit.CHECK_FAILED
    failure, remedy, later, command = lines[-4:]
    assert failure == "1 check failed. Start with api.openai.model:"
    assert remedy.endswith("swarmctl models openai --profile maths")
    assert later == "To start the node when this is fixed:"
    assert command.endswith("swarmctl run --profile maths")


@slow
def test_a_plan_that_fails_leaves_the_profile(home: Path) -> None:
    terminal = init(STAND_IN="error")
    converse(terminal, *DEMO)
    code, lines = ended(terminal)
    assert code == Exit.CONFIGURATION
    error, remedy, later, command = lines[-4:]
    assert error == "error: no such device"
    assert remedy.endswith("swarmctl doctor --profile my-demo --node my-demo"), "the demo is on the CPU already"
    assert later == "To start the node when this is fixed:"
    assert command.endswith("swarmctl run --profile my-demo")


@slow
def test_a_warning_is_a_question(home: Path) -> None:
    for answer, code, said in (
        ("n", Exit.INTERRUPTED, "Cancelled. Nothing was changed."),
        ("", Exit.DONE, "Wrote"),
    ):
        terminal = init(STAND_IN_FINDING="warning")
        converse(terminal, *DEMO, (PLACES["warning"], answer))
        expect_words(terminal, said)
        assert home.exists() == (not answer)
        if not answer:
            converse(terminal, ("[Y/n] ", "n"))
        rest_of(terminal)
        assert terminal.exitstatus == code


@slow
def test_wrong_answers_are_explained_and_asked_again(home: Path, weights: Path, tmp_path: Path) -> None:
    write_profile(home, "taken", "")
    (home / "nodes/old").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    terminal = init()
    task, name = "Task [", "Name of the profile"
    for question, answer, said in (
        ("Train [", "dmeo", "Unknown model 'dmeo'; did you mean demo?"),
        ("Train [", "a b", "Invalid model: 'a b'. Use a Hugging Face id, such as"),
        ("Train [", "./nowhere", "No such directory: nowhere."),
        ("Train [", "~nobody-here/x", "No such directory: ~nobody-here/x."),
        ("Train [", str(tmp_path / "empty"), "is not a model: it has no config.json."),
        ("Train [", "sk-proj-Abcdefghijklmnop0123456789", "This looks like an API key"),
        ("Train [", str(weights), ""),
        (task, "gsm8kk", "Unknown task 'gsm8kk'; did you mean gsm8k?"),
        (task, "nowhere.jsonl", "No such file or directory."),
        (task, "bf", ""),
        (API, "opnai", "Unknown provider 'opnai'; did you mean openai?"),
        (API, "http://127.0.0.1:8000/v1", "Use a name instead of a URL"),
        (API, "openai:unknown-model", "The price of openai:unknown-model is unknown"),
        (API, KEY.replace("mk", "sk"), "This looks like an API key"),
        (API, "ollama", ""),
        ("Model at ollama: ", "", "There is no default model at ollama, so name one."),
        ("Model at ollama: ", "qwen3:8b", ""),
        (name, "../x", "Invalid profile name: '../x'."),
        (name, "taken", "already exists."),
        (name, "demo", "The profile demo is built in; use another name."),
        (name, "old", "A node old already exists; use another name."),
        (name, "maths", ""),
    ):
        converse(terminal, (question, answer))
        expect_words(terminal, said)
    expect_words(terminal, "ollama:qwen3:8b, else this machine")
    assert ended(terminal)[0] == Exit.CHECK_FAILED, "no ollama is running"
    assert sorted(home.rglob("*.toml")) == [home / "profiles/taken.toml"]


@slow
def test_tab_completes_tasks_and_providers(home: Path, weights: Path) -> None:
    terminal = init()
    converse(terminal, ("Train [", str(weights)))
    for question, begin, rest in (("Task [", "bf,spell_b", "ackward"), (API, "deeps", "eek")):
        expect_words(terminal, question)
        terminal.send(f"{begin}\t")
        expect_words(terminal, rest)
        terminal.sendline("")
    expect_words(terminal, "The API of deepseek costs money.")
    interrupt(terminal)
    rest_of(terminal)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ([], f"my-{BASE.name}"),
        (["tasks=bf"], f"my-{BASE.name}"),
        (["model.name=Qwen/Qwen2.5-1.5B-Instruct"], "qwen2.5-1.5b-instruct"),
        (["model.name=./Some Model/"], "some-model"),
        (["model.name=~/x.toml"], "x"),
        (["model.name=/"], "my-model"),
    ],
)
def test_the_suggested_name(settings: list[str], name: str) -> None:
    assert suggested_name(BASE, settings) == name
