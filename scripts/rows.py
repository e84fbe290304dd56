"""Figures of a measurement, kept as JSON, and rows, shown as a table while they are made: for the other scripts, no command."""

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moldiff.files import write_atomically

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
    made, told = print_rows(rows), {k: str(v) for k, v in vars(options).items()}
    write_json(options.json, {"weights": weights, "options": told, "rows": made})


def write_json(path: Path | None, figures: Any) -> None:
    """If there is a ``path``."""
    if path:
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(figures, indent=1))
