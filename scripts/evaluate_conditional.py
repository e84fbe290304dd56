"""Whether molecules have the property that was asked for: the mean absolute error (MAE), by a measure that is no network.

Following EDM (arXiv 2203.17003), sizes and values are drawn together from molecules that the model has not seen: the test
split of its prepared set. One property is asked for at a time. Properties of the graph (QED, logP, ...) are exact, by RDKit;
orbital energies and dipole moments (``--dft``) come from density functional theory in the generated geometry.

Beside the MAE of the valid molecules there is what it would be without the model's help:

* ``#atoms``: the mean of the training molecules of each size taken for the value;
* ``shuffled``: another test molecule's value taken for it.

Example: python scripts/evaluate_conditional.py leads --model leads -n 500 --guidance 1 --guidance 2
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rdkit.Chem import Mol
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moldiff import chem
from moldiff.attempts import Request, choose_sampler, sample_sizes
from moldiff.conditions import find_property, properties_by_size
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.errors import RequestError
from moldiff.generation import Generator, load
from moldiff.metrics.dft import DFT_UNITS, dft_properties
from moldiff.metrics.druglike import DRUGLIKE_COLUMNS, druglike_facts
from moldiff.samplers import KeyedRandomness
from moldiff.terminal import one_line_errors


def main(
    data: Annotated[Path, typer.Argument(help="The prepared set that the model was trained on.")],
    model: Annotated[str, typer.Option(help="A shipped name or a weights file.")] = "qm9",
    property_: Annotated[
        list[str] | None, typer.Option("--property", help="Repeatable.", show_default="all that can be measured")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Molecules for each property and guidance.", min=2)] = 500,
    guidance: Annotated[
        list[float] | None, typer.Option(help="Repeatable.", show_default="0 1 2; 0 asks for nothing")
    ] = None,
    quality: Annotated[str | None, typer.Option(help="fast, balanced or best.")] = None,
    dft: Annotated[
        bool, typer.Option("--dft", help="Orbital energies and dipole moments: a minute a molecule.")
    ] = False,
    seed: int = 0,
    output: Annotated[Path | None, typer.Option("-o", help="Write every molecule's values to this CSV.")] = None,
) -> None:
    with one_line_errors():
        generator = load(model, "cpu")
        measure, known = (dft_properties, DFT_UNITS) if dft else (druglike_facts, DRUGLIKE_COLUMNS)
        names = property_ or [p.name for p in generator.model.data.properties if p.name in known]
        if not names or set(names) - set(known):
            raise RequestError(f"--property {' '.join(names) or 'none'}: measured are {', '.join(known)}")
        study = Study(generator, data, n, seed, quality, measure)
        rows = [row for name in names for weight in guidance or (0.0, 1.0, 2.0) for row in study.run(name, weight)]
    table = pd.DataFrame(rows)
    if output:
        table.to_csv(output, index=False)
    show(table, study)


class Study:
    """Test molecules whose sizes and values are asked for, and how the outcome is measured."""

    def __init__(
        self,
        generator: Generator,
        data: Path,
        n: int,
        seed: int,
        quality: str | None,
        measure: Callable[[Mol], dict | None],
    ):
        self.generator, self.measure, self.seed = generator, measure, seed
        self.sampler = choose_sampler(quality, None)
        if read_meta(data)["sha256"]["train"] != generator.model.data.sha256:
            raise RequestError(f"{data}: not the set that {generator.name} was trained on")
        train, test = read_split(data, "train"), read_split(data, "test")
        chosen = np.sort(np.random.default_rng(seed).permutation(len(test))[:n])
        self.sizes, self.values = test.n_atoms[chosen], test.properties[chosen].astype(float)
        self.mean = np.nanmean(train.properties, 0)
        self.mean_of_size = {atoms: mean for atoms, mean, _ in properties_by_size(train.properties, train.n_atoms)}

    def run(self, name: str, weight: float) -> list[dict]:
        """One row for each molecule asked for."""
        data = self.generator.model.data
        column = data.properties.index(find_property(name, data.properties))
        asked = np.full_like(self.values, np.nan)
        asked[:, column] = self.values[:, column]
        mols = self.generate(asked if weight else None, weight)
        rows = []
        for k, mol in enumerate(track(mols, f"{name}, guidance {weight:g}")):
            verdict = chem.check(mol)
            found = self.measure(verdict.mol) if verdict.mol is not None else None
            value = self.values[k, column]
            other = self.values[(k + len(self.values) // 2) % len(self.values), column]
            by_size = self.mean_of_size.get(int(self.sizes[k]), self.mean)
            rows.append({
                "property": name, "unit": data.properties[column].unit, "guidance": weight, "molecule": k, "asked": value,
                "found": np.nan if found is None else found[name], "by_size": by_size[column], "other": other,
            })  # fmt: skip
        return rows

    def generate(self, asked: np.ndarray | None, weight: float) -> list[Mol]:
        model = self.generator.model
        request = Request(len(self.sizes), self.seed, self.sampler, guidance=weight or 1.0)
        random = KeyedRandomness(self.seed, range(len(self.sizes)))
        molecules = sample_sizes(model, request, random, self.sizes, asked)
        mols = chem.to_rdkit(molecules, model.data.vocabulary)
        return [chem.with_hydrogens(mol) for mol in mols] if model.data.hydrogens == "implicit" else mols


def show(table: pd.DataFrame, study: Study) -> None:
    shown = Table(
        title=f"{study.generator.name}, {study.sampler.evaluations} evaluations (twice with guidance other than 1)"
    )
    for column in ("property", "guidance", "n", "valid", "MAE", "± s.e.", "median", "#atoms", "shuffled"):
        shown.add_column(column, justify="right")
    for (name, weight), group in table.groupby(["property", "guidance"], sort=False):
        error = (group.found - group.asked).abs().dropna()
        by_size, other = ((group[c] - group.asked).abs().mean() for c in ("by_size", "other"))
        numbers = (error.mean(), error.sem(), error.median(), by_size, other)
        label = f"{name} ({group.unit.iloc[0]})" if group.unit.iloc[0] else name
        shown.add_row(
            label,
            f"{weight:g}",
            f"{len(group)}",
            f"{100 * len(error) / len(group):.1f} %",
            *(f"{x:.3g}" for x in numbers),
        )
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
