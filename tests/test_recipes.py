"""Follow the recipes of ARCHITECTURE.md in a copy of the code: each works and names every file it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.recipe_copies import Copy, recipes, steps

pytestmark = pytest.mark.slow
MOST_LINES = 6


@pytest.fixture
def code(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_every_recipe_is_short_and_tested_here() -> None:
    followed = {value for key, value in globals().items() if key.startswith("ADD_")}
    assert set(recipes()) == followed
    assert {heading: len(steps(heading)) for heading in recipes() if not 1 < len(steps(heading)) <= MOST_LINES} == {}


ADD_PROVIDER = "Add a provider"


def add_provider(code: Copy) -> None:
    chat = 'Chat(model="gpt-6-luna", checked=date(2026, 11, 28), prices="openai")'
    row = f'\n    _remote("acme", "https://api.acme.test/v1", ("ac-",), "https://acme.test/keys", {chat}),'
    code.put("hivemind_exp/providers.py", "_ROWS = (", row)


def test_add_a_provider(code: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "ac-0123456789abcdef")
    add_provider(code)
    keys = json.loads(code.python("-m", "swarmctl", "keys", "list", "--json"))
    assert "acme" in [key["name"] for key in keys["keys"]]
    config = 'Config(offload={"provider": "acme"}, tasks=["sapo"])'
    found = f"from hivemind_exp.config import Config; from hivemind_exp.offload.settings import *; {config}"
    assert code.python("-c", f"{found}; print(first_endpoint({config}).label)") == "acme:gpt-6-luna\n"
    code.check_files(ADD_PROVIDER, "acme")


ADD_TASK = "Add a task with a verifier"


def add_task(code: Copy) -> None:
    code.write(
        "hivemind_exp/tasks/families/doubling.py",
        '''"""Numbers to double."""

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import Task


class Doubling(Task):
    def make(self, seed):
        return f"What is {seed % 1000} doubled?", {"answer": str(2 * (seed % 1000))}

    def score(self, answer, entry):
        return float(answer == entry["answer"])


def check(spec):
    if spec.params:
        raise TaskError("task 'doubling' takes no params", next="swarmctl run --task doubling")


def build(spec):
    return Doubling()
''',
    )
    line = '\n    "doubling": "hivemind_exp.tasks.families.doubling",'
    code.put("hivemind_exp/tasks/registry.py", "FAMILIES: dict[str, str] = {", line)
    described = '    "doubling": "Double a number",\n'
    after = '    "emoji_mystery"'
    code.replace("hivemind_exp/tasks/descriptions.py", after, described + after)


def test_add_a_task_with_a_verifier(code: Copy) -> None:
    add_task(code)
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
    code.check_files(ADD_TASK, "doubling")


ADD_CHECK = "Add a doctor check"


def add_check(code: Copy) -> None:
    code.write(
        "swarmctl/doctor/checks/coffee.py",
        '''"""Coffee."""

from swarmctl.doctor.check import ok


def pot(context):
    return ok(f"a pot for {context.config.node.name or 'nobody'}")
''',
    )
    registry = "swarmctl/doctor/registry.py"
    code.put(registry, "from swarmctl.doctor.checks import accelerator,", " coffee,")
    line = '\n    Check("machine", "coffee", coffee.pot, profile=True),'
    code.put(registry, "CHECKS: tuple[Check, ...] = (", line)


def test_add_a_doctor_check(code: Copy) -> None:
    add_check(code)
    told = json.loads(code.python("-m", "swarmctl", "doctor", "machine.coffee", "-p", "demo", "--json"))
    assert [(each["name"], each["status"]) for each in told["checks"]] == [("coffee", "ok")]
    code.check_files(ADD_CHECK, "coffee")


ADD_LOSS = "Add a loss"


def add_loss(code: Copy) -> None:
    code.write(
        "hivemind_exp/losses/plain.py",
        '''"""``plain``: every row weighs one."""

import torch

from hivemind_exp.losses.base import Loss
from hivemind_exp.losses.base import likelihood


def weigh(rows, train):
    return torch.ones_like(rows.outcomes)


LOSS = Loss(weigh, likelihood)
''',
    )
    registry = "hivemind_exp/losses/registry.py"
    code.put(registry, "from hivemind_exp.losses import ", "plain, ")
    code.put(registry, "LOSSES: dict[str, Loss] = {", '\n    "plain": plain.LOSS,')
    code.put("hivemind_exp/train_settings.py", '    teacher_loss: Literal["gated", "luffy"', ', "plain"')
    described = '\n    "plain": "teacher: every row weighs one",'
    last = '    "luffy": "teacher: LUFFY policy shaping, f(π) = π/(π + 0.1), with advantages within the joint group",'
    code.put("hivemind_exp/offload/loss_descriptions.py", last, described)


def test_add_a_loss(code: Copy) -> None:
    add_loss(code)
    program = """
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.losses import plain
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.rollouts.types import Kind
print(choose_losses(TrainConfig(teacher_loss="plain"))[Kind.TEACHER] is plain.LOSS)
"""
    assert code.python("-c", program) == "True\n"
    code.check_files(ADD_LOSS, "plain")


ADD_SOURCE = "Add a source"


def add_source(code: Copy) -> None:
    code.write(
        "hivemind_exp/sources/parrot.py",
        '''"""``policy_text``: says the same thing to everybody."""

from hivemind_exp.rollouts.types import Group, Kind, Rollout
from hivemind_exp.sources.source import Source


class ParrotSource(Source):
    name = "parrot"
    kind = Kind.POLICY_TEXT

    def collect(self, ask):
        row = Rollout(self.kind, self.name, "a", (5,), truncated=False)
        yield [Group(prompt, (row,) * len(places), places=places) for prompt, places in ask.empty]


def build(parts):
    return ParrotSource()
''',
    )
    registry = "hivemind_exp/sources/registry.py"
    code.put(registry, "from hivemind_exp.sources import api, hints, local, p", "arrot, p")
    code.put(
        registry, "SOURCES: dict[str, Callable[[NodeParts], Source | None]] = {", '\n    "policy_text": parrot.build,'
    )


def test_add_a_source(code: Copy) -> None:
    add_source(code)
    program = """
import sqlite3, sys
from pathlib import Path
from tests.support.nodes import make_config, run
box = {"base_url": "http://127.0.0.1:9/v1", "model": "own", "free": True}
offload = {"provider": "box", "kind": "policy_text", "share": 0.5}
run(make_config(game={"rounds": 1}, offload=offload, providers={"box": box}), Path(sys.argv[1]))
journal = sqlite3.connect(Path(sys.argv[1]) / "journal.sqlite")
print(journal.execute("SELECT source, count(*) FROM completions GROUP BY source ORDER BY source").fetchall())
"""
    assert code.python("-c", program, str(code.root / "node")) == "[('local', 6), ('parrot', 6)]\n"
    code.check_files(ADD_SOURCE, "parrot")


ADD_COMMAND = "Add a command"


def add_command(code: Copy) -> None:
    code.write("swarmctl/weather/__init__.py", '"""``swarmctl weather``: what to wear."""\n')
    code.write(
        "swarmctl/weather/cli.py",
        '''"""``swarmctl weather``."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def weather() -> None:
        """Say what to wear.

        \\b
        Examples:
          swarmctl weather
          swarmctl weather --help
        """
        from swarmctl.weather.forecast import forecast

        print(forecast())
''',
    )
    code.write("swarmctl/weather/forecast.py", 'def forecast() -> str:\n    return "a coat"\n')
    code.put("swarmctl/cli.py", "from swarmctl.version import VERSION", "\nfrom swarmctl.weather import cli as weather")
    code.put("swarmctl/cli.py", "for command in (", "weather, ")
    code.put("swarmctl/terminal/help.py", '"Shell": ("completion",', ' "weather"')
    code.put("pyproject.toml", '    "profiles | identity | rollouts | completion', " | weather")
    code.put("tests/support/every_command.py", "COMMANDS = [", '\n    "weather",')
    code.put("ARCHITECTURE.md", "|---|---|\n", "| `swarmctl/weather/` | what to wear |\n")


def test_add_a_command(code: Copy) -> None:
    add_command(code)
    code.python("-m", "tools.generate")
    assert code.python("-m", "swarmctl", "weather") == "a coat\n"
    assert "Commands:" not in code.python("-m", "swarmctl", "--help")
    assert "weather" in (code.root / "swarmctl/completions/swarmctl.fish").read_text(encoding="utf-8")
    layers = "from importlinter.cli import lint_imports; print(lint_imports(no_cache=True))"
    assert code.python("-c", layers).endswith("\n0\n")
    code.touched.remove("ARCHITECTURE.md")
    code.touched.remove("swarmctl/weather/forecast.py")  # the recipe gives "the module that does it" no fixed name
    code.check_files(ADD_COMMAND, "weather")


ADD_STAGE = "Add a game stage"


def add_stage(code: Copy) -> None:
    code.write(
        "hivemind_exp/game/study_group/stages/praise.py",
        '''"""A stage in which everybody is praised."""

from hivemind_exp.game.study_group.stages.base import Stage
from hivemind_exp.tasks.base import Score


class PraiseStage(Stage):
    name = "praise"
    verifies = False

    def prompts(self, round_, questions):
        return [self.prompt(each, ({"role": "user", "content": "Praise."},)) for each in questions]

    def scores(self, group):
        return [Score(1.0, True, "praise is always right") for _ in group.rollouts]
''',
    )
    game = "hivemind_exp/game/study_group/game.py"
    place = "from hivemind_exp.game.study_group.stages.critique import CritiqueStage"
    code.put(game, place, "\nfrom hivemind_exp.game.study_group.stages.praise import PraiseStage")
    code.put(game, "(AnswerStage, CritiqueStage,", " PraiseStage,")
    code.put("hivemind_exp/game_settings.py", 'StageName = Literal["answer", "critique", ', '"praise", ')


def test_add_a_game_stage(code: Copy) -> None:
    add_stage(code)
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
    code.check_files(ADD_STAGE, "praise")


ADD_EVENT = "Add an event to the live view"


def add_event(code: Copy) -> None:
    last = '    next: str | None = Field(None, description="A command that helps; null if there is none.")'
    model = '\n\n\nclass NapEvent(Event):\n    """A nap."""\n\n    minutes: int = Field(description="How long.")'
    code.put("hivemind_exp/events.py", last, model)
    code.put(
        "swarmctl/terminal/sentences.py",
        '        case "start":\n            return start(event)',
        '\n        case "nap":\n            return f"Napping for {event[\'minutes\']} minutes."',
    )


def test_add_an_event_to_the_live_view(code: Copy) -> None:
    add_event(code)
    code.python("-m", "tools.generate")
    assert "`nap`" in (code.root / "docs/events.md").read_text(encoding="utf-8")
    program = """
import io, json, sys
from pathlib import Path
from hivemind_exp.events import EventLog, NapEvent
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import view
EventLog(Path("events.jsonl"))(NapEvent(minutes=5))
stream = io.StringIO()
with view(stream, plain=True, quiet=False, verbose=False) as display:
    display.event(json.loads(Path("events.jsonl").read_text()), RunView())
print(stream.getvalue())
"""
    assert "Napping for 5 minutes." in code.python("-c", program)
    code.check_files(ADD_EVENT, "nap")


ADD_SETTING = "Add a setting"


def add_setting(code: Copy) -> None:
    before = "    batch: Positive = 64\n"
    field = '    shuffle: bool = False\n    """Ask the questions of a round in random order."""\n'
    code.replace("hivemind_exp/config.py", before, field + before)
    known = '    "generation.batch": ('
    shown = "tests/test_recipes.py::test_add_a_setting"
    code.replace("tests/test_every_setting.py", known, f'    "generation.shuffle": "{shown}",\n{known}')
    allowed = "tests/swarmctl/settings/test_problems.py"
    code.replace(allowed, known, f'    "generation.shuffle": ("true or false", (2,)),\n{known}')


def test_add_a_setting(code: Copy) -> None:
    add_setting(code)
    code.python("-m", "tools.generate")
    assert "`generation.shuffle`" in (code.root / "docs/settings.md").read_text(encoding="utf-8")
    code.check_files(ADD_SETTING, "shuffle")


TABLES = (
    "tests/test_layout.py",
    "tests/test_documents.py::test_named_files_and_modules_exist",
    "tests/test_documents.py::test_documents_count_the_generators",
    "tests/test_every_setting.py::test_every_field_is_in_the_table",
    "tests/hivemind_exp/game/test_last_stage.py",
    "tests/hivemind_exp/losses/test_losses.py::test_every_kind_has_a_loss_and_every_loss_in_the_settings_exists",
    "tests/hivemind_exp/offload/test_settings.py::test_every_default_model_has_a_price_and_a_date",
    "tests/swarmctl/doctor/test_command.py::test_the_help_and_the_page_name_every_group",
    "tests/swarmctl/settings/test_problems.py",
    "tests/swarmctl/tasks/test_tasks.py::test_every_task_has_a_short_description",
    "tests/swarmctl/test_every_command.py",
)
"""Tests with lists that a recipe must name if it lengthens them."""


def test_after_every_recipe_no_table_of_the_tests_lacks_a_line(code: Copy) -> None:
    for add in (add_provider, add_task, add_check, add_loss, add_command, add_stage, add_event, add_setting):
        add(code)
    code.python("-m", "tools.generate")
    code.python("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *TABLES)
