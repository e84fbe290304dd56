"""How well a network predicts properties of real molecules that it has not seen: mean absolute error (MAE) of each.

Example: python scripts/evaluate_predictor.py qm9 --predictor qm9-properties.safetensors
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from moldiff.datasets.prepared import read_meta, read_split
from moldiff.errors import RequestError
from moldiff.predictor import Predictor
from moldiff.terminal import one_line_errors
from moldiff.weights import shipped_helpers


def main(
    data: Annotated[Path, typer.Argument(help="A prepared set with the same tokens and properties.")],
    predictor: Annotated[Path | None, typer.Option(help="Weights.", show_default="those in the package")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    with one_line_errors():
        network = Predictor.load(predictor or shipped_helpers("predictors")[0])
        meta, known = read_meta(data), network.data
        if meta["vocabulary"] != list(known.vocabulary):
            raise RequestError(f"{data}: its tokens are not those of the predictor ({' '.join(known.vocabulary)})")
        if [p["name"] for p in meta["properties"]] != [p.name for p in known.properties]:
            raise RequestError(f"{data}: its properties are not {', '.join(p.name for p in known.properties)}")
        molecules = read_split(data, split)
    errors = np.concatenate([
        network.predict(batch).numpy() - molecules.properties[rows.numpy()]
        for batch, rows in molecules.buckets().values()
    ])  # fmt: skip
    table = Table(
        "property", "MAE", "± s.e.", "unit", "standard deviation", title=f"{len(errors):,} molecules of {split}"
    )
    for p, column in zip(known.properties, np.abs(errors).T, strict=True):
        error = column.std() / np.sqrt(len(column))
        table.add_row(p.name, f"{column.mean():.4g}", f"{error:.2g}", p.unit, f"{p.std:.3g}")
    Console().print(table)


if __name__ == "__main__":
    with torch.inference_mode():
        typer.run(main)
