"""What a prepared set itself scores: the ceiling of every metric, under the same rules as generated molecules.

python scripts/data_ceiling.py qm9 --split test --strain 1000 --reference qm9 --jobs 2
python scripts/data_ceiling.py qm9 --hydrogens network --reference qm9
python scripts/data_ceiling.py qm9 --split train -n 10000 --strain 0 --reference qm9
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rows import write_json

import moldiff
from moldiff.chem import without_hydrogens
from moldiff.datasets.prepared import SPLITS, read_meta, read_split
from moldiff.force_field import whole_mols, with_hydrogens
from moldiff.model_file import DataInfo
from moldiff.predictions import placer_of, with_placed_hydrogens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("-n", type=int, help="as many of its molecules, drawn at random [default: all]")
    parser.add_argument("--seed", type=int, default=0, help="of the draw [default: 0]")
    parser.add_argument(
        "--hydrogens", choices=("own", "force-field", "network"), default="own",
        help="where they are, or placed as for molecules of a model without them [default: own]",
    )  # fmt: skip
    parser.add_argument("--protocol", help="model-bonds, edm-table or moses [default: the first two]")
    parser.add_argument("--reference", help="qm9, moses or a file [default: none]")
    parser.add_argument("--strain", type=int, default=1000, help="molecules relaxed [default: 1000]")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="write every metric here")
    arguments = parser.parse_args()
    meta = read_meta(arguments.data)
    split = read_split(arguments.data, arguments.split)
    if arguments.n is not None:
        if not 0 < arguments.n <= len(split):
            parser.error(f"-n {arguments.n}: the {arguments.split} split has {len(split)} molecules")
        split = split.draw(arguments.n, arguments.seed)
    mols = whole_mols(split.molecules(), meta["vocabulary"], meta["hydrogens"])
    if arguments.hydrogens != "own":
        mols = [with_hydrogens(without_hydrogens(mol)) for mol in mols]
    if arguments.hydrogens == "network":
        placer = placer_of(replace(DataInfo.from_meta(meta), hydrogens="implicit"))
        if placer is None:
            parser.error(f"--hydrogens network: none is shipped for {meta['name']}; choose own or force-field")
        mols = with_placed_hydrogens(placer, mols)
    found = moldiff.evaluate(
        mols, arguments.reference, protocol=arguments.protocol, strain=arguments.strain, jobs=arguments.jobs
    )
    found.print()
    write_json(arguments.json, found.to_dict())


if __name__ == "__main__":
    main()
