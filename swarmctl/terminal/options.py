"""Options that several commands share. Their defaults are set in the commands."""

from enum import StrEnum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonAskingNothing = Annotated[bool, typer.Option("--json", help="Print JSON; never prompt.")]
Plain = Annotated[bool, typer.Option("--plain", help="Print one line per round instead of the live view.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Answer yes to all prompts.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Never prompt; fail if input is required.")]
OneNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only this node. [default: all]")]
NodeName = Annotated[str | None, typer.Argument(metavar="NODE", help="Node name; the same as --node.")]
LatestNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Node name. [default: the latest]")]
Profile = Annotated[str | None, typer.Option("-p", "--profile", metavar="PROFILE", help="Profile name or .toml file.")]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="TASK", help="Task, preset, or path of your questions.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting (repeatable).")
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="Hugging Face model id or local directory.")
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps or xpu.")]
Offload = Annotated[
    str | None,
    typer.Option(
        "--offload", metavar="PROVIDER[:MODEL]", help="API to generate with: a provider, a server's URL, or off."
    ),
]
MaxUsd = Annotated[
    str | None,
    typer.Option("--max-usd", metavar="USD", help="The most the node may spend in total, or unlimited."),
]


class Level(StrEnum):
    """The least severe events to print."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class GgufType(StrEnum):
    """How a GGUF file stores the weights."""

    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
