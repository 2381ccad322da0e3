"""Packages with environments of ``verifiers``, as wheels, and a place to install them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from swarmctl.errors import Exit
from tests.support.forked_swarmctl import swarmctl
from tests.support.wheels import write_wheel

PATIENCE = 900
"""Seconds after which an installation counts as stuck."""

TASKSET = """
import asyncio
import os
import socket
from collections.abc import Iterable

import verifiers.v1 as vf

__all__ = ["WordBoxesTaskset"]


class Seen(vf.State):
    looks: int = 0


class Clock(vf.Toolset[vf.ToolsetConfig, Seen]):
    @vf.tool
    async def look(self, place: str) -> str:
        '''Look at a clock.'''
        self.state.looks += 1
        if place == "away":
            socket.create_connection(("127.0.0.1", 9))
        return f"{self.state.looks} o'clock in {place}"


class Data(vf.TaskData):
    answer: str


class TaskConfig(vf.TaskConfig):
    pass


class WordBoxesTask(vf.Task[Data, Seen, TaskConfig]):
    @vf.stop
    async def one_answer(self, trace: vf.Trace) -> bool:
        return trace.num_turns >= 1 and not trace.assistant_messages[-1].tool_calls

    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        said = vf.extract_boxed_answer(trace.last_reply, strict=True)
        if said == "connect":
            socket.create_connection(("127.0.0.1", 9))
        if said == "read":
            open("/etc/hostname").read()
        if said == "write":
            open("/tmp/written", "w")
        if said == "environ":
            raise ValueError(sorted(os.environ))
        while said == "spin":
            pass
        (late,) = await asyncio.gather(asyncio.sleep(0, float(said == self.data.answer)))
        return late

    @vf.reward(weight=0.5)
    async def short(self, task: Data, trace: vf.Trace) -> dict[str, float]:
        return {"short": float(len(trace.last_reply) < 20)}

    @vf.metric
    async def length(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply))


class Config(vf.TasksetConfig):
    count: int = 20
    tools: bool = False
    task: TaskConfig = TaskConfig()


class WordBoxesTaskset(vf.Taskset[WordBoxesTask, Config]):
    @classmethod
    def toolsets(cls, config: Config) -> list[vf.Toolset]:
        return [Clock(vf.ToolsetConfig())] if config.tools else []

    def load(self) -> Iterable[WordBoxesTask]:
        for n in range(self.config.count):
            word = f"a{n}b"
            data = Data(prompt=f"Reverse: {word}", system_prompt="In a box.", answer=word[::-1])
            yield WordBoxesTask(data, self.config.task)
"""
_PLAIN = """
import itertools
import random
import verifiers.v1 as vf

__all__ = {exported}


class PlainTask(vf.Task[vf.TaskData]):
    {method}


class Plain(vf.Taskset[PlainTask, vf.TasksetConfig]):
    INFINITE = {infinite}

    def load(self):
        for n in {numbers}:
            yield PlainTask(vf.TaskData({data}), self.config.task)
"""
_REWARD = "@vf.reward\n    async def right(self, trace: vf.Trace) -> float:\n        return 1.0\n"


def plain(
    method: str = _REWARD,
    data: str = 'prompt=f"{n}?"',
    numbers: str = "range(20)",
    more: str = "",
    exported: str = "Plain",
) -> str:
    """Return a taskset's module: the tasks' methods, their data, their numbers, further code, and what is exported."""
    text = _PLAIN.format(
        exported=exported.split(), method=method, data=data, numbers=numbers, infinite="count(" in numbers
    )
    return text + more


REFUSED = {
    "no turns": (
        plain(
            exported="Plain Talk",
            more="\n\nclass Talk(vf.SingleAgentEnv):\n    async def run(self, task, agents):\n        ...\n",
        ),
        "ends a conversation before the model's first turn",
    ),
    "agents": (
        plain(
            exported="Plain Two",
            more="\n\nclass Pair(vf.EnvConfig):\n    one: vf.AgentConfig = vf.AgentConfig()\n"
            "    other: vf.AgentConfig = vf.AgentConfig()\n\n\n"
            "class Two(vf.Env[Pair]):\n    async def run(self, task, agents):\n        ...\n",
        ),
        "runs its tasks with Two, so with 2 agents",
    ),
    "resources": (
        plain(
            exported="Plain Busy",
            more="\n\nclass Busy(vf.SingleAgentEnv):\n    async def start(self):\n        ...\n",
        ),
        "starts resources of its own (Busy)",
    ),
    "harness": (
        plain(
            exported="Plain Mine",
            more="\n\nclass Mine(vf.Harness[vf.HarnessConfig]):\n    async def launch(self, *_):\n        ...\n",
        ),
        "has a harness of its own",
    ),
    "user": (plain(data="prompt=None"), "has tasks without a prompt, in which a user begins the conversation"),
    "conversation": (
        plain(
            data='prompt=[vf.UserMessage(content="a"), vf.AssistantMessage(content="b"), vf.UserMessage(content="c")]'
        ),
        "has a conversation as a prompt (user, assistant, user)",
    ),
    "image": (
        plain(
            data='prompt=[vf.UserMessage(content=[vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url="data:,"))])]'
        ),
        "has prompts with images",
    ),
    "container": (plain(data='prompt="a", image="python:3"'), "needs a container"),
    "files": (plain(data='prompt="a", artifacts=[vf.Artifact(source="/x")]'), "collects files from a runtime"),
    "runtime": (
        plain(_REWARD.replace("trace: vf.Trace", "trace: vf.Trace, runtime: vf.Runtime")),
        "runs programs to score an answer: right needs a runtime",
    ),
    "setup": (
        plain(f"{_REWARD}\n    async def setup(self, runtime: vf.Runtime) -> None:\n        ...\n"),
        "runs programs to score an answer: setup needs a runtime",
    ),
    "intercept": (
        plain(f"{_REWARD}\n    @vf.intercept\n    async def change(self, request: vf.Request):\n        ...\n"),
        "changes what the model is asked or replies (@intercept)",
    ),
    "nothing": (plain("pass"), "has no reward function"),
    "random": (plain(data="prompt=str(random.random())"), "loads different tasks each time"),
    "judge": (
        plain(more="\n\nclass Asked(vf.TaskConfig):\n    judges: vf.Judges = [vf.ReferenceJudgeConfig()]\n").replace(
            "self.config.task)", "Asked())"
        ),
        "asks a model to judge (ReferenceJudge)",
    ),
    "waits": (
        plain(_REWARD.replace("return 1.0", "import asyncio\n        await asyncio.sleep(3600)"), data='prompt="a"'),
        "waits for something in its reward functions, such as a model that judges",
    ),
}
"""Tasksets that cannot be used, by what they need, with the end of the message."""
TALKING = plain(
    exported="Plain Talk",
    more="""

class Talk(vf.SingleAgentEnv):
    async def run(self, task, agents):
        async with agents.agent.interaction(task) as chat:
            said = await chat.turn()
            while not said.terminated and said.last_reply != "stop":
                said = await chat.turn(f"Once more. {random.random()}")

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        trace.record_reward("short", 1 / trace.num_turns)
""",
)
"""A taskset whose environment talks until the model says "stop"."""
ENDLESS = plain(numbers="itertools.count()")
GUESSING = """
import os
import random
import socket

import verifiers as vf
from datasets import Dataset


class Guessing(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **_):
        said = messages[-1].content.strip()
        if said == "read":
            open("/etc/hostname").read()
        if said == "connect":
            socket.create_connection(("127.0.0.1", 9))
        while said == "spin":
            pass
        if said == state["answer"]:
            state["final_env_response"] = [vf.UserMessage(content="Right.")]
            return state["final_env_response"]
        luck = os.getpid() if said == "process" else random.random()
        return [vf.UserMessage(content=f"No, it begins with {state['answer'][0]}. Luck: {luck}")]


class Endless(Guessing):
    async def is_completed(self, state, **_):
        return False


class Forgetful(Guessing):
    async def get_prompt_messages(self, state):
        found = await super().get_prompt_messages(state)
        return [found[0], found[-1]] if state["trajectory"] else found


def add(a: int, b: int) -> int:
    '''Add two numbers.'''
    return a + b


def right(completion, answer):
    return float(any(each.role == "assistant" and each.content.strip() == answer for each in completion))


async def fast(state):
    return 1 / len(state["trajectory"])


def called(completion):
    return float(any(each.tool_calls for each in completion if each.role == "assistant"))


def one_turn(count):
    rows = [{"question": f"Reverse: a{n}b", "answer": f"b{str(n)[::-1]}a"} for n in range(count)]
    parser = vf.Parser(vf.extract_boxed_answer)

    async def right(completion, answer, parser):
        return float(parser.parse_answer(completion) == answer)

    rubric = vf.Rubric(funcs=[right], parser=parser)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), system_prompt="In a box.", parser=parser, rubric=rubric)


def load_environment(count=20, kind="guess"):
    if kind == "reverse":
        return one_turn(count)
    if kind == "add":
        rows = [{"question": f"What is {n} + {n * 7}?", "answer": str(n * 8)} for n in range(count)]
        rubric = vf.Rubric(funcs=[right, called], weights=[1.0, 0.5])
        return vf.ToolEnv(tools=[add], dataset=Dataset.from_list(rows), rubric=rubric)
    rows = [{"question": f"Guess number {n}.", "answer": f"{n * n % 97}"} for n in range(count)]
    rubric = vf.Rubric(funcs=[right, fast], weights=[1.0, 0.5])
    kinds = {"guess": Guessing, "forget": Forgetful, "endless": Endless}
    return kinds[kind](dataset=Dataset.from_list(rows), system_prompt="Guess.", rubric=rubric, max_turns=5)
"""
"""Environments with several turns (a guessing game, one that changes the conversation, and one with a tool), and with
one."""


def module_of(need: str) -> str:
    """Return the module in the wheel ``word-boxes`` that has a taskset of ``REFUSED``."""
    return f"needs_{need.replace(' ', '_')}"


def write_environments(directory: Path) -> None:
    """Write wheels: ``word-boxes`` for verifiers 0.4; ``guessing`` for 0.1, which does not say so."""
    modules = {f"{module_of(need)}/__init__.py": text for need, (text, _) in REFUSED.items()}
    modules |= {"word_boxes/__init__.py": TASKSET, "endless/__init__.py": ENDLESS}
    modules["talking/__init__.py"] = TALKING
    write_wheel(directory, "word-boxes", modules, summary="Reverse words.")
    guessing = {"guessing.py": GUESSING}
    write_wheel(directory, "guessing", guessing, requires=["verifiers>=0.1.10"], summary="Guess numbers.")


class Installed:
    """A place with its own wheels and cache, in which commands run."""

    def __init__(self, place: Path) -> None:
        write_environments(place / "wheels")
        wheels = str(place / "wheels")
        downloads = os.environ.get("UV_CACHE_DIR") or str(
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "uv")
        )
        self.variables = {
            "XDG_CACHE_HOME": str(place / "cache"),
            "UV_CACHE_DIR": downloads,
            "UV_FIND_LINKS": wheels,
            "PIP_FIND_LINKS": " ".join([*os.environ.get("PIP_FIND_LINKS", "").split(), wheels]),
            "SWARMCTL_HOME": str(place / "home"),
        }
        self.home = place / "home"
        self.shown: Any = None
        """What the installing command printed."""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return swarmctl(*words, timeout=PATIENCE, **self.variables)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == Exit.DONE, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
