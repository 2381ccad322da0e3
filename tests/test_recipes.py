"""Follow the recipes of ARCHITECTURE.md in a copy of the code: each works and names every file it changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import recipe_examples as examples
from tests.support.command_line import ROOT
from tests.support.recipe_copies import Copy, named_tests, recipes, steps

pytestmark = pytest.mark.slow
MOST_LINES = 6


@pytest.fixture
def code(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_every_recipe_is_short_and_tested_here() -> None:
    followed = {value for key, value in vars(examples).items() if key.startswith("ADD_")}
    assert set(recipes()) == followed
    assert {heading: len(steps(heading)) for heading in recipes() if not 1 < len(steps(heading)) <= MOST_LINES} == {}


def test_every_recipe_ends_with_the_tests_to_run() -> None:
    assert {heading: named_tests(heading) for heading in recipes() if not named_tests(heading)} == {}
    assert [path for heading in recipes() for path in named_tests(heading) if not (ROOT / path).exists()] == []


def test_add_a_provider(code: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "ac-0123456789abcdef")
    examples.add_provider(code)
    keys = json.loads(code.python("-m", "swarmctl", "keys", "list", "--json"))
    assert "acme" in [key["name"] for key in keys["keys"]]
    config = 'Config(offload={"provider": "acme"}, tasks=["sapo"])'
    found = f"from hivemind_exp.config import Config; from hivemind_exp.offload.settings import *; {config}"
    assert code.python("-c", f"{found}; print(first_endpoint({config}).label)") == "acme:gpt-6-luna\n"
    code.check_files(examples.ADD_PROVIDER, "acme")


def test_add_a_task_with_a_verifier(code: Copy) -> None:
    examples.add_task(code)
    assert '"description": "Double a number"' in code.python("-m", "swarmctl", "tasks", "list", "--json")
    program = """
from contextlib import closing
from hivemind_exp.config import TaskConfig
from hivemind_exp.tasks.mixture import Mixture
with closing(Mixture([TaskConfig(name="doubling")], charter=b"c", secret=b"s", heldout=4)) as tasks:
    questions = tasks.questions("train", 0, 2)
    right = [f"<think>so</think><answer>{each.entry['answer']}</answer>" for each in questions]
    print([score.outcome for score in tasks.score(questions * 2, [*right, "no", "<answer>x</answer>"])])
"""
    assert code.python("-c", program) == "[1.0, 1.0, 0.0, 0.0]\n"
    code.check_files(examples.ADD_TASK, "doubling")


def test_add_a_doctor_check(code: Copy) -> None:
    examples.add_check(code)
    told = json.loads(code.python("-m", "swarmctl", "doctor", "kitchen.coffee", "-p", "demo", "--json"))
    assert [(each["name"], each["status"]) for each in told["checks"]] == [("coffee", "warning")]
    program = f"""
from swarmctl import cli
from tests.support.advice import reached, sites
from tests.support.advice_of_doctor import DOCTOR_STATES
(state,) = [state for state in DOCTOR_STATES if state.command == {examples.COFFEE!r}]
with reached() as found:
    cli.run(state.command.split())
print([site in found for site in sites() if "coffee" in site.function])
"""
    assert code.python("-c", program).endswith("[True]\n")
    code.touched.remove("docs/doctor.md")
    code.check_files(examples.ADD_CHECK, "coffee")


def test_add_a_loss(code: Copy) -> None:
    examples.add_loss(code)
    program = """
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.losses import plain
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.source_kinds import Kind
print(choose_losses(TrainConfig(teacher_loss="plain"))[Kind.TEACHER] is plain.LOSS)
"""
    assert code.python("-c", program) == "True\n"
    code.check_files(examples.ADD_LOSS, "plain")


def test_add_a_loss_on_the_nodes_own_rows(code: Copy) -> None:
    examples.add_own_loss(code)
    program = """
from hivemind_exp.losses import centred, policy
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
print([choose_losses(TrainConfig(own_loss=name))[Kind.POLICY] is LOSS
       for name, LOSS in (("policy", policy.LOSS), ("centred", centred.LOSS))])
"""
    assert code.python("-c", program) == "[True, True]\n"
    code.check_files(examples.ADD_OWN_LOSS, "centred")


def test_add_a_source(code: Copy) -> None:
    examples.add_source(code)
    program = """
import sqlite3, sys
from pathlib import Path
from tests.support.nodes import make_config, run
box = {"base_url": "http://127.0.0.1:9/v1", "model": "own", "free": True}
offload = {"provider": "box", "kind": "parrot", "share": 0.5}
run(make_config(game={"rounds": 1}, offload=offload, providers={"box": box}), Path(sys.argv[1]))
journal = sqlite3.connect(Path(sys.argv[1]) / "journal.sqlite")
print(journal.execute("SELECT source, count(*) FROM completions GROUP BY source ORDER BY source").fetchall())
"""
    assert code.python("-c", program, str(code.root / "node")) == "[('local', 6), ('parrot', 6)]\n"
    code.check_files(examples.ADD_SOURCE, "parrot")


def test_add_a_kind_of_source(code: Copy) -> None:
    examples.add_kind(code)
    program = """
from hivemind_exp.config import Config
from hivemind_exp.hub.card import model_card
from hivemind_exp.journal.records import SourceContribution
from hivemind_exp.losses import gated
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
print(choose_losses(TrainConfig())[Kind.DRAFT] is gated.LOSS)
lessons = [SourceContribution(Kind.DRAFT, "drafter", 8, 80)]
config = Config(hub={"repo": "me/mine", "every": 5}, tasks=["gcd"])
print("`draft`: a smaller model" in model_card(config, round_=1, step=1, lessons=lessons, evaluations=[]))
"""
    assert code.python("-c", program) == "True\nTrue\n"
    code.check_files(examples.ADD_KIND, "draft")


def test_add_an_engine_for_the_nodes_own_weights(code: Copy) -> None:
    examples.add_engine(code)
    program = """
import sys
from pathlib import Path
from hivemind_exp.config import Config
from hivemind_exp.offload.api.engines import inference_engine
from hivemind_exp.offload.policy_server_probe import shortcomings
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import first_endpoint
from tests.support.policy_server import policy_server
from tests.support.tiny_models import save_llama
with policy_server(save_llama(Path(sys.argv[1]) / "llama"), most=1) as (_, url):
    offload = {"provider": "box:policy", "kind": "policy", "serving": {"engine": "acme"}}
    config = Config(model={"lora": True}, offload=offload, providers={"box": {"base_url": url, "free": True}})
    check_offload(config)
    (found,) = shortcomings(first_endpoint(config), config, Path(sys.argv[1]) / "served", 3)
    print(inference_engine(config).__name__, found.text)
"""
    command = """
from hivemind_exp.config import Config
from swarmctl.serving.gpus import Place
from swarmctl.serving.registry import server_engine
from swarmctl.settings.offload_target import serve_flags
print(dict(each[1:] for each in serve_flags("/opt/bin/acme"))["offload.provider"])
offload = {"provider": "box:policy", "kind": "policy", "serving": {"engine": "acme", "command": "acme"}}
config = Config(model={"lora": True, "name": "org/m"}, offload=offload, providers={"box": {"base_url": "http://a/v1"}})
print(server_engine(config).arguments(config, 8, Place(None, False, False, "")))
"""
    assert code.python("-c", command) == "acme\n['-l', '8', 'org/m']\n"
    told = code.python("-c", program, str(code.root / "node"))
    assert told == "AcmeServer It keeps 1 in memory of the 3 adapters in use. Start it with -m 3.\n"
    code.check_files(examples.ADD_ENGINE, "acme")


def test_only_the_registry_knows_the_engines_that_are_started() -> None:
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / "swarmctl").rglob("*.py")}
    of_engines = re.compile(r"swarmctl\.serving(\.| import .*)\b(vllm|sglang)\b")
    assert [path.name for path, text in modules.items() if of_engines.search(text)] == ["registry.py"]


def test_add_a_command(code: Copy) -> None:
    examples.add_command(code)
    code.python("-m", "tools.generate")
    assert code.python("-m", "swarmctl", "weather") == "a coat\n"
    assert "Commands:" not in code.python("-m", "swarmctl", "--help")
    assert "weather" in (code.root / "swarmctl/completions/swarmctl.fish").read_text(encoding="utf-8")
    layers = "from importlinter.cli import lint_imports; print(lint_imports(no_cache=True))"
    assert code.python("-c", layers).endswith("\n0\n")
    code.touched.remove("ARCHITECTURE.md")
    code.touched.remove("swarmctl/weather/forecast.py")  # the recipe gives "the module that does it" no fixed name
    code.check_files(examples.ADD_COMMAND, "weather")


def test_add_a_command_about_nodes(code: Copy) -> None:
    examples.add_node_command(code)
    code.python("-m", "tools.generate")
    (code.root / "home/nodes/maths").mkdir(parents=True)
    (code.root / "home/nodes/maths/node.json").write_text("{}")
    assert code.python("-m", "swarmctl", "greet", "maths") == "Hello, maths.\n"
    assert "Commands:" not in code.python("-m", "swarmctl", "--help")
    assert "greet" in (code.root / "docs/commands.md").read_text(encoding="utf-8")
    code.check_files(examples.ADD_NODE_COMMAND, "greet")


def test_add_a_game_stage(code: Copy) -> None:
    examples.add_stage(code)
    program = """
import sys
from pathlib import Path
from tests.support.nodes import Events, make_config, run
events = Events()
game = {"rounds": 1, "kind": "study-group"}
limits = {"max_prompt_tokens": 2000, "max_completion_tokens": 8, "batch": 16}
run(make_config(game=game, generation=limits, offload={"stages": ["praise"]}), Path(sys.argv[1]), emit=events)
print([event["stage"] for event in events.of("rollouts")])
"""
    stages = code.python("-c", program, str(code.root / "node"))
    assert stages == "['answer', 'critique', 'praise', 'resolve']\n"
    code.check_files(examples.ADD_STAGE, "praise")


def test_add_an_event_to_the_live_view(code: Copy) -> None:
    examples.add_event(code)
    code.python("-m", "tools.generate")
    assert "`nap`" in (code.root / "docs/events.md").read_text(encoding="utf-8")
    program = """
import io, json, sys
from pathlib import Path
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import NapEvent
from swarmctl.terminal.live_view import LiveView
from swarmctl.terminal.event_sentences import EventSentences
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import view
EventLog(Path("events.jsonl"))(NapEvent(minutes=5))
event = json.loads(Path("events.jsonl").read_text())
plain, live = io.StringIO(), io.StringIO()
for display in (view(plain, plain=True, quiet=False, verbose=False), LiveView(live)):
    with display:
        display.event(event, RunView())
told = (plain.getvalue(), live.getvalue(), EventSentences().sentence(event, RunView()))
print(["Napping for 5 minutes." in each for each in told])
"""
    assert code.python("-c", program) == "[True, True, True]\n"
    code.check_files(examples.ADD_EVENT, "nap")


def test_add_a_setting(code: Copy) -> None:
    examples.add_setting(code)
    code.python("-m", "tools.generate")
    assert "`generation.shuffle`" in (code.root / "docs/settings.md").read_text(encoding="utf-8")
    code.check_files(examples.ADD_SETTING, "shuffle")


TABLES = (
    "tests/test_layout.py",
    "tests/test_documents.py::test_named_files_and_modules_exist",
    "tests/test_documents.py::test_documents_count_the_generators",
    "tests/test_every_setting.py::test_every_field_is_in_the_table",
    "tests/hivemind_exp/game/study_group/test_alone.py::test_a_round_is_a_step_for_each_stage_on_the_same_questions",
    "tests/hivemind_exp/game/study_group/test_alone.py::test_a_later_stage_without_prompts_only_warns",
    "tests/hivemind_exp/game/study_group/test_defects.py",
    "tests/hivemind_exp/game/study_group/test_prompts.py",
    "tests/hivemind_exp/game/study_group/test_rewards.py",
    "tests/hivemind_exp/game/study_group/test_slot_schedule.py",
    "tests/hivemind_exp/game/test_last_stage.py",
    "tests/hivemind_exp/hub/test_card.py::test_every_kind_of_source_is_described",
    "tests/hivemind_exp/losses/test_losses.py::test_every_kind_has_a_loss_and_every_loss_in_the_settings_exists",
    "tests/hivemind_exp/sources/test_registry.py::test_every_kind_has_a_description_for_people",
    "tests/hivemind_exp/offload/api/test_engines.py",
    "tests/hivemind_exp/test_providers.py",
    "tests/swarmctl/test_cli.py::test_every_command_is_listed_under_a_heading_with_its_full_help",
    "tests/swarmctl/test_cli.py::test_every_help_has_examples_and_is_wrapped_between_words_only",
    "tests/swarmctl/doctor/test_command.py::test_the_help_and_the_page_name_every_group",
    "tests/swarmctl/settings/test_problems.py",
    "tests/swarmctl/tasks/test_tasks.py::test_every_task_has_a_short_description",
    "tests/swarmctl/test_every_command.py",
)
"""Tests with lists that a recipe must name if it lengthens them."""


def test_after_every_recipe_no_table_of_the_tests_lacks_a_line(code: Copy) -> None:
    followed = [value for name, value in vars(examples).items() if name.startswith("add_")]
    assert len(followed) == len(recipes())
    for add in followed:
        add(code)
    code.python("-m", "tools.generate")
    code.check_style()
    code.python("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *TABLES)
