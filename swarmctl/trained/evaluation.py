"""``swarmctl eval``: how often a model answers correctly, and whether it is better than another."""

import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from hivemind_exp.errors import ConfigurationError, LimitReached, NodeConflict, NodeError
from hivemind_exp.money import dollars
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.settings import is_offloaded
from hivemind_exp.offload.spending import spent_so_far, tokens_so_far
from swarmctl.errors import Exit
from swarmctl.keys.for_run import keys_for
from swarmctl.paths import shown
from swarmctl.run.offload_plan import plan, record_consent
from swarmctl.run.servers_down import check_command, warnings_of
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.terminal.interrupting import end_line
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import quoted
from swarmctl.terminal.sentences import percent, several
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.table import or_dash, print_table
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import progress_line
from swarmctl.trained.evaluated import EvalOptions, Evaluated, evaluated, results_of
from swarmctl.trained.pinned_checkpoint import pinned_checkpoint
from swarmctl.trained.process import model_process
from swarmctl.trained.statistics import Comparison, Share, compare, pass_at
from swarmctl.trained.target import TrainedNode
from swarmctl.trained.verdicts import write_verdicts


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's answers, verified."""

    model: Evaluated
    results: list[dict[str, Any]]
    """One per question."""
    files: NodeFiles
    k: int

    def counts(self) -> list[tuple[str, str, int, int]]:
        """Return each question with a verdict: its task, its digest, its answers and how many of them are correct."""
        found = []
        for each in self.results:
            verdicts = [answer["correct"] for answer in each["answers"] if answer["correct"] is not None]
            if verdicts:
                found.append((each["task"], each["digest"], len(verdicts), sum(verdicts)))
        return found

    def pass_1(self) -> Share:
        return Share.of([correct / answers for _, _, answers, correct in self.counts()])

    def pass_k(self) -> Share | None:
        """Return pass@k over the questions with at least k verified answers; None if k is 1 or there are none."""
        values = [pass_at(self.k, answers, correct) for _, _, answers, correct in self.counts() if answers >= self.k]
        return Share.of(values) if values and self.k > 1 else None

    def by_task(self) -> dict[str, Share]:
        tasks: dict[str, list[float]] = defaultdict(list)
        for task, _, answers, correct in self.counts():
            tasks[task].append(correct / answers)
        return {task: Share.of(values) for task, values in tasks.items()}

    def tokens(self) -> int | None:
        """Return the tokens of all completions; with an API, as it counts them. None if unknown."""
        if is_offloaded(self.model.model.config):
            used = tokens_so_far(self.files)
            return None if used is None else used[1]
        return sum(answer["tokens"] or 0 for each in self.results for answer in each["answers"])

    def usd(self) -> float | None:
        return spent_so_far(self.files) if is_offloaded(self.model.model.config) else None


def evaluate(options: EvalOptions) -> Exit:
    """Evaluate one model, or two on the same questions, and print the results. Raises ``NodeError``."""
    models, asked = evaluated(options)
    measured = []
    with ExitStack() as stack:
        models = [replace(model, model=stack.enter_context(pinned_checkpoint(model.model))) for model in models]
        for model in models:
            one = _answered(model, asked, options)
            if one is None:
                return Exit.INTERRUPTED
            measured.append(one)
    comparison = _comparison(measured)
    if options.as_json:
        _print_json(measured, comparison, asked, options)
    else:
        _print(measured, comparison, options)
    return Exit.DONE


def _answered(model: Evaluated, asked: TrainedNode | None, options: EvalOptions) -> Measured | None:
    """Let a model answer the questions, or what it has not answered yet; None after Ctrl-C."""
    files, about = results_of(model, asked, options)
    node = model.model
    with disk_errors(files.root):
        files.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _held(files):
        with disk_errors(files.root):
            write_json(files.root / "about.json", {"schema": 1, **about})
        if is_offloaded(node.config):
            node = _with_consent(model, files, options)
        order = {
            "asked": None
            if asked is None
            else {"config": asked.config.model_dump(mode="json"), "node_dir": str(asked.files.root)},
            "questions": options.questions,
            "samples": options.samples,
            "greedy": options.greedy,
            "results": str(files.root),
        }
        with _suggesting(options):
            results = _ask(model, node, order, quiet=options.as_json)
    if results is None:
        return None
    if not any(answer["correct"] is not None for each in results for answer in each["answers"]):
        raise NodeError(f"{model.name} gave no answer that could be verified", next="swarmctl doctor")
    measured = Measured(model, results, files, options.k)
    with disk_errors(files.root):
        write_verdicts(files.root, about, model, measured.counts())
    return measured


def _ask(model: Evaluated, node: TrainedNode, order: dict[str, Any], *, quiet: bool) -> list[dict[str, Any]] | None:
    say = Writer(sys.stderr)
    results: list[dict[str, Any]] = []
    total = 0

    def so_far() -> str:
        return f"{model.name}: {len(results)} of {total} questions, {percent(_so_far(results))} correct."

    with model_process("eval", node, quiet=quiet, **order) as process, progress_line(say) as show:
        try:
            for event in process.events():
                match event["event"]:
                    case "questions":
                        total = event["count"]
                    case "result":
                        results.append(event)
                if not quiet and results:  # until then, the phases show the progress
                    show(so_far)
        except KeyboardInterrupt:
            if is_offloaded(node.config):  # answers in flight are paid for, so they get a few seconds to arrive
                process.interrupt()
                for _ in process.events():
                    pass
            end_line()
            say("Interrupted. Every answer is saved; to continue, run the same command.")
            return None
    return results


def _so_far(results: Sequence[dict[str, Any]]) -> float:
    verdicts = [answer["correct"] or False for each in results for answer in each["answers"]]
    return fmean(verdicts) if verdicts else 0.0


@contextmanager
def _held(files: NodeFiles) -> Iterator[None]:
    """Lock the directory of an evaluation. Raises NodeConflict if it is being written."""
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locks.acquire(lock):
            raise NodeConflict(f"this evaluation is already running ({shown(files.root)})", next="swarmctl status")
        yield
    finally:
        os.close(lock)


@contextmanager
def _suggesting(options: EvalOptions) -> Iterator[None]:
    """Let a reached cap suggest this command with a higher one."""
    try:
        yield
    except LimitReached as error:
        cap = re.search(r"--max-usd (\S+)", error.next or "")
        following = _again(options, cap[1] if cap else "unlimited")
        raise LimitReached(f"{error.message}. Every answer is saved", next=following) from error


def _again(options: EvalOptions, max_usd: str) -> str:
    """Return the command that repeats an evaluation with a spending cap."""
    words = ["swarmctl", "eval", options.target, *(("--against", options.against) if options.against else ())]
    words += [word for task in options.tasks for word in ("--task", task)]
    words += ["--profile", options.profile] if options.profile else []
    words += ["--questions", str(options.questions), "-k", str(options.k), "--samples", str(options.samples)]
    model = options.model
    given: dict[str, object] = {
        **{"checkpoint": model.checkpoint, "temperature": model.temperature, "max-tokens": model.max_tokens},
        **{"device": model.device, "examples": options.examples or None},
    }
    words += [word for name, value in given.items() if value is not None for word in (f"--{name}", f"{value}")]
    words += [flag for flag, on in (("--base", model.base), ("--json", options.as_json)) if on]
    return shlex.join([*words, "--max-usd", max_usd])


def _with_consent(model: Evaluated, files: NodeFiles, options: EvalOptions) -> TrainedNode:
    """Return a model behind an API with its keys, after agreement on the cost. Raises ``NodeError``."""
    config, prompter = model.model.config, Prompter(yes=options.yes, silent=options.no_input or options.as_json)
    game = config.game.model_copy(update={"groups": options.questions, "group_size": options.samples, "rounds": 1})
    found = plan(config.model_copy(update={"game": game}), files)
    assert found is not None
    use = found.uses[0]
    agreed = (read_json(files.consent) or {}).get("providers", {})
    asked = tuple(each.name for each in found.paid if each.name not in agreed)
    capped = model.resolved is not None and "offload.limits.usd" in model.resolved.origins
    if asked and not capped:
        cap = config.offload.limits.usd
        limit = cap if cap == "unlimited" else f"{cap:g}"
        cost = f"about {dollars(use.estimate.usd)}, at most {dollars(use.estimate.usd_at_most)}"
        prompter.confirm(
            f"{model.name} costs money, and prompts go to {use.endpoint.host}. All answers: {cost}. This evaluation "
            f"will spend at most {limit} USD. Continue?",
            ConfigurationError(
                f"{model.name} costs money ({cost}). Set a spending cap with --max-usd to confirm",
                next=_again(options, limit),
            ),
            "Nothing was sent.",
        )
        record_consent(files, asked)
    keys = keys_for(config, prompter, os.environ)
    provider = shlex.quote(f"offload.provider={use.endpoint.name}:{use.endpoint.model}")
    check = f"swarmctl doctor api --set {provider}" if model.resolved is None else check_command(model.resolved)
    for line in warnings_of(config, check):  # the evaluation waits for them
        prompter.say(line)
    return replace(model.model, secrets=keys.secrets)


def _comparison(measured: Sequence[Measured]) -> Comparison | None:
    if len(measured) < 2:
        return None
    first, second = ({digest: correct / answers for _, digest, answers, correct in each.counts()} for each in measured)
    shared = [digest for digest in first if digest in second]
    return compare([first[digest] for digest in shared], [second[digest] for digest in shared])


def _print_json(
    measured: Sequence[Measured], comparison: Comparison | None, asked: TrainedNode | None, options: EvalOptions
) -> None:
    rows = []
    for each in measured:
        pass_k, counts = each.pass_k(), each.counts()
        by_task = {task: share.as_json() for task, share in each.by_task().items()}
        rows.append(
            {
                "model": each.model.name,
                "node": each.model.node,
                "checkpoint": each.model.model.at(),
                "questions": len(counts),
                "unverified": len(each.results) - len(counts),
                "pass_at_1": each.pass_1().as_json(),
                "pass_at_k": None if pass_k is None else pass_k.as_json(),
                "by_task": by_task,
                "completion_tokens": each.tokens(),
                "usd": each.usd(),
                "results": str(each.files.root),
                "examples": each.results[: options.examples],
            }
        )
    print_json(
        questions_of=None if asked is None else asked.files.root.name,
        k=options.k,
        samples=options.samples,
        models=rows,
        comparison=None if comparison is None else comparison.as_json(),
    )


def _print(measured: Sequence[Measured], comparison: Comparison | None, options: EvalOptions) -> None:
    say = Writer(sys.stdout)
    headings = ["model", "questions", "correct", *([f"pass@{options.k}"] if options.k > 1 else []), "tokens", "cost"]
    rows = []
    for each in measured:
        counts, pass_k, tokens, usd = each.counts(), each.pass_k(), each.tokens(), each.usd()
        middle = [or_dash(pass_k, _cell)] if options.k > 1 else []
        cost = or_dash(usd, dollars)
        rows.append(
            [each.model.name, f"{len(counts):,}", _cell(each.pass_1()), *middle, or_dash(tokens, "{:,}".format), cost]
        )
        tasks = each.by_task()
        for task, share in tasks.items() if len(tasks) > 1 else ():
            number = sum(task == other for other, *_ in counts)
            rows.append([f"  {task}", f"{number:,}", _cell(share), *["" for _ in middle], "", ""])
    print_table(rows, headings, right=headings[1:2])
    if comparison is not None:
        say(_compared(measured, comparison, options))
    for number, line in enumerate(_examples(measured, options)):
        if not number:
            say("")
        say(line)


def _cell(share: Share) -> str:
    """Return a share with its 95 % interval."""
    return f"{percent(share.value)} ({100 * share.low:.0f}–{100 * share.high:.0f})"


def _compared(measured: Sequence[Measured], found: Comparison, options: EvalOptions) -> str:
    first, second = (each.model.name for each in measured)
    test = "McNemar's exact test" if options.samples == 1 else "exact sign test"
    chance = "The difference is not significant" if found.p >= 0.05 else "The difference is significant"
    return (
        f"{first} is better on {several(found.better, 'question')}, {second} on {found.worse:,}; they are equal on "
        f"{found.equal:,}. {chance} (p = {found.p:.2g}, {test})."
    )


def _examples(measured: Sequence[Measured], options: EvalOptions) -> Iterator[str]:
    width = width_of(sys.stdout)
    quote = partial(quoted, mark="    | ", width=width, full=True)
    for number, shared in enumerate(zip(*(each.results for each in measured), strict=False)):
        if number == options.examples:
            return
        first = shared[0]
        yield f"question {number + 1} ({first['task']}), reference: {first['reference']}"
        yield from quote(first["question"])
        for each, result in zip(measured, shared, strict=True):
            for answer in result["answers"]:
                yield f"  {each.model.name}: {answer['why']}"
                yield from quote(answer["text"])
