"""What a run refuses before anything is created: ``run``, ``profiles`` and ``doctor`` refuse the same."""

from collections.abc import Callable

from hivemind_exp.config import Config
from hivemind_exp.offload.judge import check_judge
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import is_relay
from hivemind_exp.tasks.registry import check_conversations, check_tasks, check_warmup


def check_config(config: Config, tell: Callable[[str], object] = str) -> None:
    """Raise a NodeError if the configuration's tasks, offloading, judge or warm-up cannot work.

    ``tell`` is called with a line for each question file of which a part is not used.
    """
    check_conversations(config, check_tasks(config.tasks, tell))
    check_offload(config)
    check_judge(config)
    if not is_relay(config):
        check_warmup(config)
