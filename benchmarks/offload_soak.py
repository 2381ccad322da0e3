"""Send requests to a server that fails one in five, and compare the node's accounts with the server's own bill.

The faults include lost connections after the request arrived, 504, content in parts, errors in a choice, usage as
floats, prompt tokens that the service adds, and filtered answers. Prints both totals; an account that does not match is
an error.

    python -m benchmarks.offload_soak
    python -m benchmarks.offload_soak --requests 10000 --cap 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.support.engine_rig import GROUPS
from tests.support.soak import check_accounts, check_cap, check_nothing_doubled, check_nothing_lost, soak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="completions to ask for")
    parser.add_argument("--cap", type=float, default=0.5, help="spending cap of the last run, in USD")
    options = parser.parse_args()
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as root:
            done = soak(Path(root), group, options.requests)
            check_nothing_lost(done)
            check_nothing_doubled(done)
            node, server = check_accounts(done)
            faults = sum(done.books.faults().values())
            settled = done.rig.accounts()["settled"]
        print(
            f"{group}: {len(done.books.chats)} requests, {faults} faults; server's bill {server:.6f} USD, node's total "
            f"{node:.6f} USD, of which {settled:.6f} settled to the cent"
        )
    with tempfile.TemporaryDirectory() as root:
        total, bill = check_cap(soak(Path(root), "n", 4 * options.requests, usd=options.cap), options.cap)
    print(f"cap {options.cap:.2f} USD: server's bill {bill:.6f} USD, node's total {total:.6f} USD")


if __name__ == "__main__":
    main()
