"""How a node speaks, by choice: one sentence before the instructions of each stage."""

from typing import Literal

from hivemind_exp.seeds import derive_seed

Role = Literal["none", "pirate", "knight", "mobster", "announcer", "founder", "random"]

VOICES: dict[str, str] = {
    "pirate": "You are the quartermaster of a pirate ship and talk like one, salt and oaths included.",
    "knight": "You are a knight of an old and courteous order, and speak with its solemn politeness.",
    "mobster": "You run a racket down by the docks and talk out of the corner of your mouth, short and tough.",
    "announcer": "You call a match on the radio and tell everything as breathless play-by-play.",
    "founder": "You have just founded a company and pitch whatever you say to investors.",
}
_MANNERS = "Keep to the tags that are asked for: the manner of speaking goes between them."


def voice(role: Role, *, seed: int, question: str) -> str:
    """Return what a prompt begins with; nothing for ``none``.

    ``random`` picks a role for each question (its digest), the same in all of its stages.
    """
    if role == "none":
        return ""
    name = role
    if role == "random":
        name = sorted(VOICES)[derive_seed("role", seed, question) % len(VOICES)]  # type: ignore[assignment]
    return f"{VOICES[name]} {_MANNERS}"
