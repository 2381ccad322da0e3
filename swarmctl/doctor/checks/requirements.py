"""The libraries that a node needs: the range it accepts, and the version it was tested with.

The same as ``dependencies`` of pyproject.toml and constraints.txt, neither of which is there once installed; a test
keeps them equal.
"""

PINS: dict[str, tuple[str, str]] = {
    "base58": (">=2.1", "2.1.1"),
    "cryptography": (">=44", "50.0.2"),
    "datasets": (">=5.0,<6", "5.2.0"),
    "genai-prices": (">=0.2", "0.2.3"),
    "hivemind": (">=1.1.12,<1.2", "1.1.12"),
    "httpx2": (">=2.16,<3", "2.16.2"),
    "keyring": (">=25.6", "25.7.0"),
    "math-verify": (">=0.9,<0.10", "0.9.0"),
    "msgpack": (">=1.1", "1.2.4"),
    "nvidia-ml-py": (">=12", "13.615.71"),
    "openai": (">=3.54,<4", "3.54.0"),
    "peft": (">=0.21,<0.22", "0.21.2"),
    "psutil": (">=6", "7.2.2"),
    "pydantic": (">=2.12,<3", "2.14.3"),
    "pydantic-settings": (">=2.16,<3", "2.16.3"),
    "pyyaml": (">=6", "6.0.3"),
    "reasoning-gym": ("==0.1.25", "0.1.25"),
    "rich": (">=14", "15.0.0"),
    "safetensors": (">=0.5", "0.8.0"),
    "tomlkit": (">=0.13", "0.15.2"),
    "torch": (">=2.8,<3", "2.13.0"),
    "transformers": (">=5.23,<5.24", "5.23.0"),
    "trl": (">=1.16,<1.17", "1.16.0"),
    "typer": (">=0.27,<0.29", "0.28.0"),
}
DECISIVE = ("torch", "transformers", "trl", "peft", "datasets", "hivemind")
"""Where another minor version has often meant another behaviour."""
