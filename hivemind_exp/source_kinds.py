"""What may be learned from a source of completions, and what each value of ``offload.kind`` counts as."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal


class Kind(StrEnum):
    """What may be learned from a source (see ``hivemind_exp.losses.registry``)."""

    POLICY = "policy"
    """This node's weights, with the token ids as sampled."""
    POLICY_TEXT = "policy_text"
    """This node's weights, with only the text known."""
    TEACHER = "teacher"
    """Another model behind an API."""
    HINTED = "hinted"
    """This node's weights, shown a hint that the prompt lacks (``offload.teach = "hints"``)."""
    PEER = "peer"
    """Whole groups from another node, as text."""
    RELAY = "relay"
    """Any engine. Nothing is learned."""

    @property
    def own(self) -> bool:
        """Whether the text is a sample of this node's own weights for the prompt itself."""
        return self in (Kind.POLICY, Kind.POLICY_TEXT)


OffloadKind = Literal["auto", "policy", "policy_text", "teacher", "relay"]
"""The values of ``offload.kind``. A name in ``SOURCES`` (hivemind_exp.sources.registry) chooses that source; with the
others, an API generates."""
COUNTS_AS: Mapping[OffloadKind, Kind] = {
    "auto": Kind.TEACHER,  # nothing shows that a server has this node's weights
    "policy": Kind.POLICY,
    "policy_text": Kind.POLICY_TEXT,
    "teacher": Kind.TEACHER,
    "relay": Kind.RELAY,
}
"""What the completions count as, by the values of ``offload.kind``."""
POLICY_SERVER: OffloadKind = "policy"
"""The value whose source pushes this node's weights to servers (``[offload.serving]``).

Other sources may count as ``Kind.POLICY``, too: what concerns such servers depends on this value, and what concerns the
rows on their kind.
"""
