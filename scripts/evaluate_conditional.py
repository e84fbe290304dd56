"""Whether molecules have the property that was asked for: the mean absolute error (MAE) between asked and found.

After EDM's protocol (arXiv 2203.17003): atom counts and values are drawn together, from molecules that no network has seen (the
test split of the prepared set), one property is asked for at a time, and what comes out is measured

* for properties of the graph (QED, logP, ...), exactly, by RDKit;
* for QM9's properties (``--predictor``) by a network that was trained on other molecules than the generator: see
  ``scripts/make_halves.py``. It judges all attempts, also those that are no valid molecules;
* for orbital energies and dipole moments (``--dft``) by density functional theory in the generated geometry.

Attempts that miss are made again as by ``moldiff generate``, but for predicted values: these decide only with ``--judge``, which
names the weights that predict them, others than those that measure.

Beside the MAE there is what bounds it:

* ``real``: that of the predictor on the very test molecules whose values are asked for (EDM's lower bound), their hydrogens
  put on as for the generated ones where the model leaves them to valence;
* ``#atoms``: the mean of the training molecules with as many atoms taken for the value;
* ``shuffled``: another test molecule's value taken for it (EDM's upper bound).

Examples:
    python scripts/evaluate_conditional.py leads --model leads -n 500 --guidance 1 --guidance 2
    python scripts/evaluate_conditional.py halves/generator --model run/weights.safetensors --predictor qm9-properties.safetensors
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from rdkit.Chem import Mol
from rich.progress import track
from rows import Row, print_rows

from moldiff import chem
from moldiff.attempts import sample_sizes
from moldiff.conditions import Target, find_property
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.draws import SizeDraw
from moldiff.errors import RequestError
from moldiff.files import write_atomically
from moldiff.finetuning import translate
from moldiff.generation import Generator, load
from moldiff.metrics.dft import DFT_UNITS, dft_properties
from moldiff.metrics.druglike import DRUGLIKE_COLUMNS, druglike_facts
from moldiff.model_file import DataInfo
from moldiff.predictor import Predictor
from moldiff.requests import Request, choose_sampler
from moldiff.samplers import KeyedRandomness
from moldiff.terminal import bar, one_line_errors

Measure = Callable[[list[Mol], list[Mol | None]], list[dict | None]]  # raw molecules, and the valid ones among them


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
    predictor: Annotated[Path | None, typer.Option(help="Weights that predict QM9's properties.")] = None,
    dft: Annotated[
        bool, typer.Option("--dft", help="Orbital energies and dipole moments: half a minute a molecule.")
    ] = False,
    judge: Annotated[
        Path | None, typer.Option(help="Weights that predict what decides whether an attempt is made again.")
    ] = None,
    seed: int = 0,
    compile_: Annotated[bool, typer.Option("--compile", help="As of `moldiff generate`; pays for thousands.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Write every molecule's values to this CSV.")] = None,
) -> None:
    with one_line_errors():
        if dft and predictor:
            raise RequestError("--dft --predictor: two ways to measure; choose one")
        if judge and predictor and judge.read_bytes() == predictor.read_bytes():
            raise RequestError("--judge --predictor: what judges would measure itself; name other weights")
        generator = load(model, "cpu", compile_)
        generator.predictor = judge and Predictor.load(judge)
        oracle = predictor and Predictor.load(predictor)
        measure, known = measure_by(oracle, dft, generator)
        info = DataInfo.from_meta(read_meta(data))
        measured = [p.name for p in info.properties if p.name in known]
        names = property_ or measured
        if not names or set(names) - set(measured):
            there = ", ".join(measured) or f"none of its properties, only {', '.join(known)}"
            raise RequestError(f"--property {' '.join(names) or 'none'}: of {data}, measured are {there}")
        study = Study(generator, data, info, n, seed, quality, measure, oracle)
        print(f"{generator.name}, {study.sampler.evaluations} evaluations a try (twice with guidance other than 1)")
        rows: list[Row] = []
        print_rows(summaries(study, names, guidance or [0.0, 1.0, 2.0], rows, output))


def summaries(
    study: "Study", names: list[str], guidance: list[float], rows: list[Row], output: Path | None
) -> Iterator[Row]:
    """One for each property and guidance; ``rows`` are those of the molecules, which go to ``output`` as they come."""
    for name, weight in product(names, guidance):
        group = study.run(name, weight)
        rows += group
        if output:  # what has been measured is not lost
            with write_atomically(output) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        yield summary(pd.DataFrame(group), study.real is not None)


def measure_by(oracle: Predictor | None, dft: bool, generator: Generator) -> tuple[Measure, list[str]]:
    """How to measure, and names of what is measured."""
    if oracle is not None:
        if not set(generator.model.data.vocabulary) <= set(oracle.data.vocabulary):
            raise RequestError("--predictor: its vocabulary is not that of the model")
        return lambda mols, _: predicted(oracle, mols), [p.name for p in oracle.data.properties]
    one, known = (dft_properties, DFT_UNITS) if dft else (druglike_facts, DRUGLIKE_COLUMNS)
    return lambda _, mols: [None if mol is None else one(mol) for mol in track(mols, "measured", transient=True)], list(
        known
    )


def predicted(oracle: Predictor, mols: list[Mol]) -> list[dict]:
    names, molecules = [p.name for p in oracle.data.properties], chem.from_rdkit(mols, oracle.data.vocabulary)
    with torch.inference_mode():
        return [dict(zip(names, row, strict=True)) for row in oracle.predict(molecules).tolist()]


class Study:
    """Test molecules whose atom counts and values are asked for, and how the outcome is measured."""

    def __init__(
        self, generator: Generator, data: Path, info: DataInfo, n: int, seed: int, quality: str | None,
        measure: Measure, oracle: Predictor | None,
    ):  # fmt: skip
        self.generator, self.measure, self.seed = generator, measure, seed
        self.sampler = choose_sampler(generator.model.config, quality, None)
        known = generator.model.data
        if info.sha256 != known.sha256:
            raise RequestError(f"{data}: not the set that {generator.name} was trained on")
        train, test = (translate(read_split(data, name), info, known) for name in ("train", "test"))
        asked = test.draw(n, seed)
        self.atoms, self.values = asked.n_atoms, asked.properties.astype(float)
        of_train = pd.DataFrame(train.properties)
        by_size = of_train.groupby(train.n_atoms).mean().reindex(self.atoms)
        self.by_size = by_size.fillna(of_train.mean()).to_numpy()
        self.real = None if oracle is None else predicted(oracle, generator.to_rdkit(asked.molecules()))

    def run(self, name: str, weight: float) -> list[Row]:
        """One row for each molecule asked for."""
        p = find_property(name, self.generator.model.data.properties)
        column = self.generator.model.data.properties.index(p)
        asked = np.full_like(self.values, np.nan)
        asked[:, column] = self.values[:, column]
        mols, tries = self.generate(name, asked if weight else None, weight)
        valid = [chem.check(mol).mol for mol in mols]
        rows = []
        for k, found in enumerate(self.measure(mols, valid)):
            other = self.values[(k + len(self.values) // 2) % len(self.values), column]
            rows.append({
                "property": name, "unit": p.unit, "guidance": weight, "molecule": k, "tries": int(tries[k]),
                "asked": asked[k, column],
                "valid": valid[k] is not None, "found": np.nan if found is None else found[name],
                "by_size": self.by_size[k, column], "other": other,
                "real": self.real[k][name] if self.real else np.nan,
            })  # fmt: skip
        return rows

    def generate(self, name: str, asked: np.ndarray | None, weight: float) -> tuple[list[Mol], np.ndarray]:
        """Compositions are not asked for: they are drawn as the training molecules have them for size and value."""
        model = self.generator.model
        request = Request(len(self.atoms), self.seed, self.sampler, guidance=weight or 1.0)
        random = KeyedRandomness(self.seed, range(len(self.atoms)))
        sizes = SizeDraw(model.data)(random.spread(), asked, self.atoms)
        judge = self.generator.measure(replace(request, targets=(Target(name, 0.0, 0.0),)))
        with bar(f"guidance {weight:g}") as shown:
            task = shown.add_task("", total=len(sizes))
            molecules, tries = sample_sizes(
                model, request, random, sizes, asked, tick=lambda work: shown.advance(task, work), measure=judge
            )
        return self.generator.to_rdkit(molecules), tries


def summary(group: pd.DataFrame, predicted: bool) -> Row:
    """Mean absolute errors of one property at one guidance, and what bounds them. Predictions are of all, valid or not."""
    error, unit = (group.found - group.asked).abs(), group.unit.iloc[0]
    of_valid = error[group.valid].dropna()
    of_all = {"MAE of all": with_error(error)} if predicted else {}
    bounds = {"#atoms": "by_size", "shuffled": "other"} | ({"real": "real"} if predicted else {})
    return {
        "property": f"{group.property.iloc[0]} ({unit})" if unit else group.property.iloc[0],
        "guidance": f"{group.guidance.iloc[0]:g}", "n": len(group), "tries": f"{group.tries.mean():.2f}",
        "valid": f"{100 * group.valid.mean():.1f} %",
        **of_all, "MAE of valid": with_error(of_valid), "median": f"{of_valid.median():.3g}",
        **{label: f"{(group[column] - group.asked).abs().mean():.3g}" for label, column in bounds.items()},
    }  # fmt: skip


def with_error(values: pd.Series) -> str:
    """Mean ± standard error."""
    return f"{values.mean():.3g} ± {values.sem():.2g}"


if __name__ == "__main__":
    typer.run(main)
