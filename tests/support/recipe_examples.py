"""A minimal example of each recipe of ARCHITECTURE.md."""

from __future__ import annotations

import re

from tests.support.recipe_copies import Copy, steps
from tests.support.recipe_losses import (  # noqa: F401 - the tests take all examples from here
    ADD_KIND,
    ADD_LOSS,
    ADD_OWN_LOSS,
    add_kind,
    add_loss,
    add_own_loss,
)

ADD_PROVIDER = "Add a provider"


def add_provider(code: Copy) -> None:
    row = re.search(r"`(_remote\(.+?,)`\s+`(Chat\(.+?\)\))`", " ".join(steps(ADD_PROVIDER)))
    assert row is not None, "the recipe has no row to follow"
    code.put("hivemind_exp/providers.py", "_ROWS = (", f"\n    {row[1]} {row[2]},")
    code.python("-m", "ruff", "format", "--no-cache", "hivemind_exp/providers.py")


ADD_TASK = "Add a task with a verifier"


def add_task(code: Copy) -> None:
    code.write(
        "hivemind_exp/tasks/families/doubling.py",
        '''"""Numbers to double."""

from collections.abc import Mapping
from typing import Any

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import Task, TaskSpec


class Doubling(Task):
    """Asks for twice a number below 1000."""

    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        return f"What is {seed % 1000} doubled?", {"answer": str(2 * (seed % 1000))}

    def score(self, answer: str, entry: Mapping[str, Any]) -> float:
        return float(answer == entry["answer"])


def check(spec: TaskSpec) -> None:
    """Raise ``TaskError`` for options."""
    if spec.params:
        raise TaskError("task 'doubling' takes no params", next="swarmctl run --task doubling")


def build(_spec: TaskSpec) -> Doubling:
    """Return the task."""
    return Doubling()
''',
    )
    line = '\n    "doubling": "hivemind_exp.tasks.families.doubling",'
    code.put("hivemind_exp/tasks/registry.py", "FAMILIES: dict[str, str] = {", line)
    described = '    "doubling": "Double a number",\n'
    after = '    "emoji_mystery"'
    code.replace("hivemind_exp/tasks/descriptions.py", after, described + after)


ADD_CHECK = "Add a doctor check"
COFFEE = "doctor kitchen.coffee -p demo"


def add_check(code: Copy) -> None:
    code.write(
        "swarmctl/doctor/checks/coffee.py",
        '''"""Coffee."""

from swarmctl.doctor.check import Context, Finding, ok, warning


def pot(context: Context) -> Finding:
    """Check whose pot it is."""
    if context.config.node.seed:
        return ok(f"a pot for {context.config.node.name}")
    return warning("the pot is empty", context.changed(node__seed=1))
''',
    )
    registry = "swarmctl/doctor/registry.py"
    code.put(registry, "\n    accelerator,", "\n    coffee,")
    line = '    Check("kitchen", "coffee", coffee.pot, profile=True),\n'
    first = '    Check("machine", "memory", '
    code.replace(registry, first, line + first)
    code.put("tests/support/advice_of_doctor.py", "DOCTOR_STATES: tuple[State, ...] = (", f'\n    State("{COFFEE}"),')
    code.put("docs/doctor.md", "| group | checks |\n|---|---|\n", "| kitchen | whether there is coffee |\n")
    code.put("swarmctl/doctor/cli.py", "Groups: ", "kitchen, ")


ADD_SOURCE = "Add a source"


def add_source(code: Copy) -> None:
    code.write(
        "hivemind_exp/sources/parrot.py",
        '''"""``parrot``: says the same thing to everybody."""

from collections.abc import Iterator

from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.source import Ask, NodeParts, Source


class ParrotSource(Source):
    """Completes every prompt with "a", as if it had sampled that from the node's weights."""

    name = "parrot"
    kind = Kind.POLICY

    def collect(self, ask: Ask) -> Iterator[list[Group]]:
        row = Rollout(self.kind, self.name, "a", (5,), truncated=False, lag=0, behaviour_logps=(-1.0,))
        yield [Group(prompt, (row,) * len(places), places=places) for prompt, places in ask.empty]


def build(_parts: NodeParts) -> ParrotSource:
    """Return the source."""
    return ParrotSource()
''',
    )
    registry = "hivemind_exp/sources/registry.py"
    code.put(registry, "from hivemind_exp.sources import api, hints, local, p", "arrot, p")
    code.put(
        registry, "    POLICY_SERVER: SourceEntry(policy_server.build),", '\n    "parrot": SourceEntry(parrot.build),'
    )
    kinds = "hivemind_exp/source_kinds.py"
    code.put(kinds, 'OffloadKind = Literal["auto", ', '"parrot", ')
    code.put(kinds, '    "relay": Kind.RELAY,', '\n    "parrot": Kind.POLICY,')


ADD_ENGINE = "Add an engine for the node's own weights"


def add_engine(code: Copy) -> None:
    code.write(
        "hivemind_exp/offload/api/acme.py",
        '''"""Acme as a server of this node's weights. It has vLLM's interface, but other flags."""

from typing import ClassVar

from hivemind_exp.offload.api.policy_server import Advice
from hivemind_exp.offload.api.vllm import VllmServer


class AcmeServer(VllmServer):
    """One Acme server."""

    advice: ClassVar[Advice] = Advice(
        adapters="Start it with -a",
        most_adapters="Start it with -m {needed}",
        sampled_logps="Start it with -s",
        precision="Start it with -p",
        turns="Start it with -t",
        seeds="Start it with -x",
        reloads="Start it with -r",
    )
''',
    )
    engines = "hivemind_exp/offload/api/engines.py"
    place = "from hivemind_exp.offload.api.policy_server import PolicyServer"
    code.replace(engines, place, f"from hivemind_exp.offload.api.acme import AcmeServer\n{place}")
    code.put(engines, "INFERENCE_ENGINES: dict[str, type[PolicyServer]] = {", '\n    "acme": AcmeServer,')
    code.put("hivemind_exp/serving_settings.py", 'InferenceEngineName = Literal["vllm"', ', "acme"')
    code.write(
        "swarmctl/serving/acme.py",
        '''"""The command line with which Acme serves this node's weights."""

from hivemind_exp.config import Config
from swarmctl.serving.engine import ServerEngine, base_environment
from swarmctl.serving.gpus import Place


def arguments(config: Config, port: int, _place: Place) -> list[str]:
    """Return what follows the program."""
    return ["-l", str(port), ENGINE.model(config), *config.offload.serving.arguments]


ENGINE = ServerEngine("acme", "Acme", arguments, base_environment, (), "-g", outside=0.0, ranks=())
''',
    )
    registry = "swarmctl/serving/registry.py"
    code.replace(registry, "import sglang, vllm", "import acme, sglang, vllm")
    code.put(registry, "SERVER_ENGINES: dict[str, ServerEngine] = {", '\n    "acme": acme.ENGINE,')


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
    code.write(
        "swarmctl/weather/forecast.py",
        '"""What to wear."""\n\n\ndef forecast() -> str:\n    """Return a garment."""\n    return "a coat"\n',
    )
    code.put("swarmctl/cli.py", "from swarmctl.version import VERSION", "\nfrom swarmctl.weather import cli as weather")
    code.put("swarmctl/cli.py", "for command in (", "weather, ")
    code.put("swarmctl/terminal/help.py", '"Shell": ("completion",', ' "weather"')
    code.put("pyproject.toml", '    "profiles | identity | rollouts | completion', " | weather")
    code.put("tests/support/every_command.py", "COMMANDS = [", '\n    "weather",')
    code.put("ARCHITECTURE.md", "|---|---|\n", "| `swarmctl/weather/` | what to wear |\n")


ADD_NODE_COMMAND = "Add a command about nodes"


def add_node_command(code: Copy) -> None:
    code.write(
        "swarmctl/nodes/greet.py",
        '''"""``swarmctl greet``: say hello to a node."""

from swarmctl.nodes.lookup import existing


def greet(name: str) -> None:
    """Greet a node. Raises ``ConfigurationError`` if it does not exist."""
    print(f"Hello, {existing(name).root.name}.")
''',
    )
    command = '''    @app.command()
    def greet(name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")]) -> None:
        """Say hello to a node.

        \\b
        Examples:
          swarmctl greet maths
          swarmctl greet tea
        """
        from swarmctl.nodes.greet import greet as say_hello

        say_hello(name)

'''
    nodes = "swarmctl/nodes/cli.py"
    code.put(nodes, "    register_recovery(app)\n\n", command)
    code.put("swarmctl/terminal/help.py", '"Manage": ("fork",', ' "greet",')
    code.put("tests/support/every_command.py", "COMMANDS = [", '\n    "greet maths",')


ADD_STAGE = "Add a game stage"
TYPES, TASKS = "from hivemind_exp.rollouts.types import", "from hivemind_exp.tasks.base import"


def add_stage(code: Copy) -> None:
    code.write(
        "hivemind_exp/game/study_group/stages/praise.py",
        '''"""A stage in which everybody is praised."""

from collections.abc import Sequence

from hivemind_exp.game.study_group.prompts import TAGS
from hivemind_exp.game.study_group.rewards import format_terms
from hivemind_exp.game.study_group.stages.base import Stage
from hivemind_exp.rollouts.types import Group, Message, Prompt
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.verifiers.answer_tags import is_exactly


class PraiseStage(Stage):
    """Ask for praise."""

    name = "praise"
    verifies = False

    def prompts(self, _round: int, questions: Sequence[Question]) -> list[Prompt]:
        """Return a prompt for each question."""
        return [self.prompt(each, praise_messages(each, self.player.voice(each))) for each in questions]

    def scores(self, group: Group) -> list[Score]:
        """Return the scores of the format: praise is always right."""
        return [score_praise(each.text) for each in group.rollouts]


def praise_messages(question: Question, voice: str) -> tuple[Message, ...]:
    """Return the stage's chat."""
    asked = "Praise the others between <praise> and </praise>."
    system = f"{voice}\\n\\n{asked}" if voice else asked
    return ({"role": "system", "content": system}, {"role": "user", "content": question.text})


def score_praise(text: str) -> Score:
    """Return the score of a completion."""
    return Score(1.0, is_exactly(text, TAGS["praise"]), "praise", format_terms(TAGS["praise"], text))
''',
    )
    game = "hivemind_exp/game/study_group/game.py"
    place = "from hivemind_exp.game.study_group.stages.critique import CritiqueStage"
    code.put(game, place, "\nfrom hivemind_exp.game.study_group.stages.praise import PraiseStage")
    code.put(game, "(AnswerStage, CritiqueStage,", " PraiseStage,")
    code.put("hivemind_exp/game_settings.py", 'StageName = Literal["answer", "critique", ', '"praise", ')
    tags = '    CRITIQUE: ("compare", "explain", "identify"),'
    code.put("hivemind_exp/game/study_group/prompts.py", tags, '\n    "praise": ("praise",),')
    imported = "from hivemind_exp.game.study_group.stages.praise import "
    prompts = "tests/hivemind_exp/game/study_group/test_prompts.py"
    code.replace(prompts, TYPES, f"{imported}praise_messages\n{TYPES}")
    code.put(
        prompts,
        '"critique": critique_messages(QUESTION, role, students, 200),',
        '\n        "praise": praise_messages(QUESTION, role),',
    )
    rewards = "tests/hivemind_exp/game/study_group/test_rewards.py"
    code.replace(rewards, TASKS, f"{imported}score_praise\n{TASKS}")
    best = '    "praise": Best("<praise>Well done.</praise>", 1.25, lambda text, _: score_praise(text)),\n'
    code.replace(rewards, '    "resolve": Best(\n', best + '    "resolve": Best(\n')


ADD_EVENT = "Add an event to the live view"


def add_event(code: Copy) -> None:
    last = '    next: str | None = Field(None, description="A command that helps; null if there is none.")'
    model = '\n\n\nclass NapEvent(Event):\n    """A nap."""\n\n    minutes: int = Field(description="How long.")'
    code.put("hivemind_exp/events.py", last, model)
    code.put(
        "swarmctl/terminal/sentences.py",
        "NOTABLE: dict[str, Callable[[dict[str, Any]], str | None]] = {",
        '\n    "nap": _nap,',
    )
    sentence = """def _nap(event: dict[str, Any]) -> str:
    return f"Napping for {event['minutes']} minutes."


"""
    before = "NOTABLE: dict["
    code.replace("swarmctl/terminal/sentences.py", before, sentence + before)


ADD_SETTING = "Add a setting"


def add_setting(code: Copy) -> None:
    before = "    temperature: Annotated["
    field = '    shuffle: bool = False\n    """Ask the questions of a round in random order."""\n'
    code.replace("hivemind_exp/config.py", before, field + before)
    known = '    "generation.temperature": ('
    shown = "tests/test_recipes.py::test_add_a_setting"
    code.replace("tests/test_every_setting.py", known, f'    "generation.shuffle": "{shown}",\n{known}')
    allowed = "tests/swarmctl/settings/test_problems.py"
    code.replace(allowed, known, f'    "generation.shuffle": ("true or false", (2,)),\n{known}')
