"""Rows of a measurement, shown as a table while they are made and kept as JSON: for the other scripts, no command."""

import json
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def print_rows(rows: Iterable[Row]) -> list[Row]:
    """As a Markdown table, each row as it comes; returns them all."""
    made = []
    for row in rows:
        made.append(row)
        if len(made) == 1:
            print(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}")
        print(f"| {' | '.join(map(str, row.values()))} |", flush=True)
    return made


def show_rows(rows: Iterable[Row], options: Namespace, weights: str) -> None:
    """Print the rows, and write them to ``options.json``, if that is asked for, with what they are of."""
    made = print_rows(rows)
    if options.json:
        facts = {"weights": weights, "options": {k: str(v) for k, v in vars(options).items()}, "rows": made}
        options.json.write_text(json.dumps(facts, indent=1))
