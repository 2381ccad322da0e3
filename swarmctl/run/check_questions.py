"""What this machine makes of the tasks of a swarm, found out with the very workers that a run uses."""

from contextlib import closing

from hivemind_exp.config import Config
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.charter_check import check_skew
from hivemind_exp.tasks.mixture import Mixture, TaskFacts


def pins(config: Config) -> tuple[list[TaskFacts], dict[str, str]]:
    """Return what a charter pins of each task: its facts, and the digest of 64 questions by label.

    Takes less than a second, unless a fixed set must be downloaded. Raises TaskError.
    """
    with closing(Mixture(config.tasks, charter=b"", secret=b"", heldout=0, verifiers=1)) as mixture:
        facts = mixture.facts()
        return facts, {fact.label: mixture.digest(fact.label) for fact in facts}


def check_questions(charter: Charter, config: Config) -> None:
    """Raise SwarmSkew, which names the cure, unless this machine makes the questions of the charter."""
    check_skew(charter, *pins(config))
