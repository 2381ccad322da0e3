"""Write every file that is generated from the code. With ``--check``, exit with code 1 if any is out of date."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools import events, memory_table, providers, reference
from tools.completions import __main__ as completions


def main(arguments: Sequence[str]) -> int:
    """Run all generators; return 1 if ``--check`` found a file that is out of date."""
    generators = (completions.main, events.main, memory_table.main, providers.main, reference.main)
    return max(generator(arguments) for generator in generators)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
