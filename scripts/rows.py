"""Rows of a measurement, shown as a table while they are made and kept as JSON: for the other scripts, no command."""

import json
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def show_rows(rows: Iterable[Row], options: Namespace, weights: str) -> None:
    """Print each row as it comes, and at the end write all to ``options.json``, if that is asked for, with what they are of."""
    made = []
    for row in rows:
        made.append(row)
        if len(made) == 1:
            print(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}")
        print(f"| {' | '.join(map(str, row.values()))} |", flush=True)
    if options.json:
        facts = {"weights": weights, "options": {k: str(v) for k, v in vars(options).items()}, "rows": made}
        options.json.write_text(json.dumps(facts, indent=1))
