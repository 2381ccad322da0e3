"""List the services that genai-prices knows, or the models of one: ``python -m tools.prices [SERVICE]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from genai_prices.data import providers


def main(arguments: Sequence[str]) -> int:
    """Print names, one per line; return 1 if the service is unknown."""
    known = {each.id: each for each in providers}
    if not arguments:
        print("\n".join(sorted(known)))
        return 0
    if arguments[0] not in known:
        print(f"genai-prices has no service {arguments[0]}", file=sys.stderr)
        return 1
    print("\n".join(sorted(model.id for model in known[arguments[0]].models)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
