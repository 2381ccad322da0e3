"""Start the other training processes of a node (``hivemind_exp.parallel.team``) without their imports."""

from __future__ import annotations

from collections.abc import Mapping

from hivemind_exp.parallel.team import MODULE
from hivemind_exp.runner import member
from tests.support.forked_children import ForkedChild


class ForkedMember(ForkedChild):
    """The part of ``Popen`` that ``Team`` uses, for a training process that is a fork of this one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(member.main, MODULE)
        self.start(environment)
