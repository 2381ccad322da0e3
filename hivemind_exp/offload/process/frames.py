"""What crosses the pipe between the trainer and the engine's process, as plain values."""

from collections.abc import Iterable
from typing import Any

from hivemind_exp.errors import NodeError, from_code
from hivemind_exp.rollouts.orders import CompletionRequest


def pack_orders(orders: Iterable[CompletionRequest]) -> list[Any]:
    """Return orders as they are before anybody works at them."""
    return [[o.round, o.stage, o.question, o.messages, o.indices, o.version] for o in orders]


def unpack_orders(packed: Iterable[Any]) -> list[CompletionRequest]:
    """Return the orders again."""
    return [
        CompletionRequest(round_, stage, question, tuple(messages), tuple(places), version)
        for round_, stage, question, messages, places, version in packed
    ]


def pack_error(error: BaseException) -> dict[str, Any]:
    """Return what the trainer must know of an error; its traceback stays here."""
    if isinstance(error, NodeError):
        return {"code": error.code, "message": error.message, "next": error.next}
    if isinstance(error, OSError) and error.errno is not None:
        return {"errno": error.errno, "text": error.strerror or str(error)}
    return {"type": type(error).__name__, "text": str(error)}


def unpack_error(packed: dict[str, Any]) -> Exception:
    """Return the error again: a ``NodeError`` of its own class, an ``OSError`` with its number, or a defect's name."""
    if "code" in packed:
        return from_code(packed["code"], packed["message"], packed["next"])
    if "errno" in packed:
        return OSError(packed["errno"], packed["text"])
    if packed["type"] == "MemoryError":
        return MemoryError(packed["text"])
    return RuntimeError(f"in the engine's process: {packed['type']}: {packed['text']}")
