"""What a setting or an option accepts, as a phrase for error messages, and the rejected value, safe to print.

Phrases are derived from the JSON schema of the configuration, and so cover every type in it. Importing this
module is cheap: pydantic is imported only when a phrase for a setting is needed.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from swarmctl.terminal.safe_text import HIDDEN, clean, masked
from swarmctl.terminal.suggest import nearest

Schema = dict[str, Any]
_LONGEST = 60
"""Characters shown of a value."""
_HIDDEN_URL = "(hidden: may hold a password)"
_NOTES = (HIDDEN, _HIDDEN_URL)
_PHRASES = {
    "node.name": "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
    "model.device": "auto, cpu, mps, xpu, cuda or cuda:N",
    "model.lora": "true, false, or a table with any of rank, alpha, dropout and targets",
    "tasks": "at least one task name, or a list of tables with a name each",
    "tasks.*": "a task name, or a table with a name",
    "offload.provider": "a provider's name, or off",
    "judge.provider": "a provider's name, or off",
    "offload.rounds": '"*", ranges such as "0-9,20-29" or "100-", or "every N"',
    "offload.fallback": 'a list of provider names or "local", such as ["local"]',
    "offload.limits.usd": "an amount in USD above 0, or unlimited",
    "offload.limits.usd_per_day": "an amount in USD above 0",
    "offload.serving.urls": 'a list of URLs, such as ["http://192.168.1.20:8000/v1"]',
    "offload.serving.arguments": 'a list of arguments, such as ["--gpu-memory-utilization=0.3"]',
    "offload.serving.urls.*": "an http:// or https:// URL without user name, query and fragment",
    "offload.prices.*.input": "an amount in USD of at least 0",
    "offload.prices.*.output": "an amount in USD of at least 0",
    "providers": "a table with one table per provider",
    "providers.*.base_url": "an http:// or https:// URL without user name, query and fragment",
    "report.metrics_address": "an address of this machine, such as 127.0.0.1 or 0.0.0.0",
    "hub.repo": "OWNER/NAME with at most 96 characters",
    "swarm.join": "the line that `swarmctl swarm invite` prints",
    "swarm.announce": 'a list of addresses, such as ["/ip4/203.0.113.7/tcp/4001"]',
}
"""For settings whose schema says too little, by dotted path; ``*`` stands for an index or a name."""
_WORDS = {"model.device": ("auto", "cpu", "mps", "xpu", "cuda"), "offload.limits.usd": ("unlimited",)}
"""Words that a setting accepts besides other values, where its schema does not list them."""
_MEANT = {"model.device": {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}}
"""Words that people type, and what a setting calls it."""
PROVIDER_NAME = "1 to 32 lowercase letters, digits or '-', starting with a letter"
"""What the names of the tables in ``providers`` may be."""


@cache
def _root() -> Schema:
    from hivemind_exp.config import Config

    return Config.model_json_schema()


def known_part(location: Sequence[str]) -> tuple[str, ...]:
    """Return the longest beginning of ``location`` that names a value of the configuration.

    pydantic appends which branch of a union it tried.
    """
    return tuple(location[: len(_chain(location))])


def allowed(location: Sequence[str]) -> str | None:
    """Return what the value at ``location`` may be, as a phrase that follows "Use"; None if unknown."""
    chain = _chain(location)
    pattern = ".".join(part if schema.get("named") else "*" for part, schema in zip(location, chain, strict=False))
    return _PHRASES.get(pattern) or (_phrase(chain[-1]) if chain else None)


def near_value(location: Sequence[str], value: Any) -> str | None:
    """Return the word that was probably meant by a wrong value of the setting at ``location``; None if unclear."""
    chain = _chain(location)
    if not chain or len(chain) < len(location) or not isinstance(value, str):
        return None
    name, word = ".".join(location), value.strip().lower()
    options = _options(chain[-1])
    words = [text for each in options if {"enum", "const"} & each.keys() for text in _option(each)]
    words += _WORDS.get(name, ())
    if any(each.get("type") == "boolean" for each in options):
        words += ["true", "false"]
    return _MEANT.get(name, {}).get(word) or nearest(word, words)


def _chain(location: Sequence[str]) -> list[Schema]:
    """Return the schema for each part of ``location`` that exists; ``named`` marks fixed keys, not indices or names."""
    found: list[Schema] = []
    schema: Schema | None = _root()
    for part in location:
        schema = _below(schema, part)
        if schema is None:
            break
        found.append(schema)
    return found


def _options(schema: Schema) -> list[Schema]:
    """Return the alternatives of a schema: references resolved, and without null, which TOML cannot express."""
    if "$ref" in schema:
        return [_root()["$defs"][schema["$ref"].rpartition("/")[2]]]
    return [each for branch in schema.get("anyOf", ()) for each in _options(branch)] or (
        [] if schema.get("type") == "null" else [schema]
    )


def _below(schema: Schema | None, part: str) -> Schema | None:
    for option in _options(schema or {}):
        if part in option.get("properties", {}):
            return {**option["properties"][part], "named": True}
        values = [option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
        tables = (each for each in values if isinstance(each, dict))
        inner = option.get("items") if part.isdigit() else next(tables, None)
        if inner is not None:
            return dict(inner)
    return None


def _phrase(schema: Schema) -> str:
    options = _options(schema)
    return choice([text for option in options for text in _option(option)])


def _option(schema: Schema) -> list[str]:
    match schema:
        case {"enum": choices}:
            return list(map(str, choices))
        case {"const": only}:
            return [str(only)]
    match schema.get("type"):
        case "boolean":
            texts = ["true", "false"]
        case "integer" | "number" as kind:
            noun = "a whole number" if kind == "integer" else "a number"
            bounds = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"))
            texts = [number(noun, *bounds)]
        case "string":
            texts = ["a non-empty string in quotes" if schema.get("minLength") else "a string in quotes"]
        case "array":
            items = [text for option in _options(schema["items"]) for text in option.get("enum", ())]
            what = f" with any of {choice(items, 'and')}, such as {json.dumps(items[:1])}" if items else ""
            texts = [("a non-empty list" if schema.get("minItems") else "a list") + what]
        case "object":
            texts = ["a table"]
        case _:
            texts = ["a string", "a number", "true", "false", "a list", "a table"]
    return texts


def choice(texts: Iterable[str], word: str = "or") -> str:
    """Return ``a, b or c``."""
    *others, last = texts
    return f"{', '.join(others)} {word} {last}" if others else last


def number(
    noun: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> str:
    """Return a phrase for numbers within bounds: ``least`` and ``most`` are allowed, ``above`` and ``below`` not."""
    if least is not None and most is not None:
        return f"{noun} from {least:g} to {most:g}"
    upper = "" if most is below is None else f"at most {most:g}" if most is not None else f"below {below:g}"
    if least is not None:
        return f"{noun} of at least {least:g} and {upper}" if upper else f"{noun} of at least {least:g}"
    if above is not None:
        return f"{noun} above {above:g}" + (f" and {upper}" if upper else "")
    return f"{noun} {upper}".rstrip()


def shown(value: Any) -> str:
    """Return a rejected value for a message: shortened, without control characters, and hidden if it may be a key."""
    if isinstance(value, bool):
        return str(value).lower()
    table = isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{"))
    if table or isinstance(value, list):  # what is inside may be a secret
        return ("a table" if table else "a list") if value else str(value)
    try:
        text = str(value)
    except ValueError:  # Python does not print whole numbers of over 4,300 digits
        return "a very large number"
    text = without_key(text)
    if text in _NOTES:
        return text
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"'{text}'" if isinstance(value, str) else text


def without_key(text: str) -> str:
    """Return ``text`` for a message, on one line; a note instead if a part of it may be a secret."""
    text = clean(text)
    packed = "".join(filter(str.isprintable, text))  # invisible characters must not disguise a key
    text = "".join(each for each in " ".join(text.split()) if each.isprintable())
    if HIDDEN in masked(text) or HIDDEN in masked(packed):
        return HIDDEN
    if "://" in text and not {"@", "?"}.isdisjoint(text):
        return _HIDDEN_URL
    return masked(text)
