"""The MOSES metrics beside the values published by MOSES, on MOSES' own molecules.

Two rows, from the wheel of molsets 0.3.1, which is read but neither installed nor run:
1,000 test molecules against both test sets, beside the values of the original program for the same molecules; and a
random sample of the training set beside the row "Train" of MOSES' README (SNN, Frag and IntDiv agree at any size;
FCD and Scaf approach it as the sample grows). The profiles of the test sets (352,000 molecules, 25 minutes on two free
cores) are kept in a folder and used again.

pip download --no-deps molsets==0.3.1
python scripts/check_moses.py molsets-0.3.1-py3-none-any.whl --profiles moses_profiles --jobs 2
"""

import argparse
import io
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from multiprocessing import get_context
from operator import add
from pathlib import Path

import pandas as pd

from moldiff.metrics.moses import diversity_metrics, moses_facts, moses_metrics, similarity_metrics
from moldiff.metrics.profiles import Profile, profile

CHUNK = 2000
SETS = {"test": "Test", "test_scaffolds": "TestSF"}
ORIGINAL = {  # 1,000 test molecules (pandas sample, random_state 0), molsets 0.3.1 itself
    "fcd/Test": 1.264, "fcd/TestSF": 1.690, "snn/Test": 1.000, "snn/TestSF": 0.588, "frag/Test": 0.998,
    "frag/TestSF": 0.9964, "scaf/Test": 0.563, "scaf/TestSF": 0.0, "intdiv": 0.8551, "intdiv2": 0.8467,
    "moses_filters": 1.0, "logp_w1/Test": 0.0477, "sa_w1/Test": 0.0198, "qed_w1/Test": 0.0051, "weight_w1/Test": 1.592,
}  # fmt: skip
TRAIN = {
    "fcd/Test": 0.008, "fcd/TestSF": 0.4755, "snn/Test": 0.642, "snn/TestSF": 0.586, "frag/Test": 1.0,
    "frag/TestSF": 0.9986, "scaf/Test": 0.9907, "scaf/TestSF": 0.0, "intdiv": 0.8567, "intdiv2": 0.8508,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="molsets-0.3.1-py3-none-any.whl")
    parser.add_argument(
        "--profiles", type=Path, default=Path("moses_profiles"), help="folder of the test sets' profiles"
    )
    parser.add_argument("--train", type=int, default=10_000, help="training molecules [default: 10,000]")
    parser.add_argument("--reference", type=int, help="molecules of each test set, to try the script [default: all]")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    smiles = {name: read(arguments.wheel, name) for name in (*SETS, "train")}
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        references = {name: reference(name, smiles[name][: arguments.reference], arguments, pool) for name in SETS}
        for title, sample, published in (
            ("1,000 test molecules", smiles["test"].sample(1000, random_state=0), ORIGINAL),
            (f"{arguments.train} training molecules", smiles["train"].sample(arguments.train, random_state=0), TRAIN),
        ):
            ours = evaluate(sample.tolist(), references, pool)
            print(pd.DataFrame({title: ours, "published": published}).loc[list(published)].round(4), end="\n\n")


def read(wheel: Path, name: str) -> pd.Series:
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(f"moses/dataset/data/{name}.csv.gz")
    return pd.read_csv(io.BytesIO(data), compression="gzip")["SMILES"]


def reference(name: str, smiles: pd.Series, arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> Profile:
    """The profile of a whole set, from the folder if it is there."""
    path = arguments.profiles / f"{name}-{len(smiles)}.safetensors"
    if not path.exists():
        arguments.profiles.mkdir(parents=True, exist_ok=True)
        whole(smiles.tolist(), pool).save(path)
    return Profile.load(path)


def whole(smiles: list[str], pool: ProcessPoolExecutor) -> Profile:
    chunks = [smiles[start : start + CHUNK] for start in range(0, len(smiles), CHUNK)]
    return reduce(add, pool.map(partial(profile, chemnet=True), chunks))


def evaluate(smiles: list[str], references: dict[str, Profile], pool: ProcessPoolExecutor) -> dict[str, float]:
    table = pd.DataFrame(pool.map(moses_facts, smiles, chunksize=CHUNK))
    ours = whole(table["moses_smiles"].dropna().tolist(), pool)
    values = {metric.name: metric.value for metric in moses_metrics(table) + diversity_metrics(ours)}
    for name, label in SETS.items():
        metrics = similarity_metrics(ours, references[name], name)
        values |= {f"{metric.name}/{label}": metric.value for metric in metrics}
    return values


if __name__ == "__main__":
    main()
