"""Put what shipped weights were measured to give into the package, where ``moldiff info`` finds it.

    moldiff generate -n 10000 -o a.sdf --rejects r.sdf && cat a.sdf r.sdf > sampled.sdf
    moldiff evaluate sampled.sdf --reference qm9 --strain 1000 --json 30.json
    python scripts/ship_figures.py qm9-deep 30=30.json

``EVALUATIONS=FILE`` takes the key figures of an evaluation of *all sampled* molecules; ``EVALUATIONS=FILE,FILE`` their means of
several, of other seeds; the same number again adds figures of another protocol. Rows of other numbers of evaluations stay.
Figures belong to weights by the hash of these, and go when they no longer ship.
"""

import argparse
import json
import statistics
from pathlib import Path

from moldiff.files import write_atomically
from moldiff.model_file import read_header
from moldiff.weights import FIGURES, shipped_helpers, shipped_models

KEYS = (
    "valid_connected", "molecule_stability", "valid_connected_unique", "edm_atom_stability", "edm_molecule_stability",
    "edm_valid", "novel", "moses_unique@10000", "moses_filters", "moses_novelty", "snn", "scaf", "fcd", "fcd_test_scaffolds",
    "strain", "posebusters",
)  # fmt: skip


def row_of(text: str) -> dict[str, object]:
    """One row for ``moldiff info``: evaluations, runs and molecules sampled in all, and the key figures that were computed."""
    evaluations, _, files = text.partition("=")
    reports = [json.loads(Path(file).read_text()) for file in files.split(",")]
    values = {name: [r["metrics"][name]["value"] for r in reports if name in r["metrics"]] for name in KEYS}
    found = {name: round(statistics.fmean(of), 4) for name, of in values.items() if len(of) == len(reports)}
    return {
        "evaluations": int(evaluations),
        "runs": len(reports),
        "sampled": sum(r["records"] for r in reports),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the shipped weights")
    parser.add_argument("figures", nargs="+", help="EVALUATIONS=FILE,... written by `moldiff evaluate --json`")
    arguments = parser.parse_args()
    there = {path.stem: path for path in [*shipped_models().values(), *shipped_helpers("fast")]}
    if arguments.name not in there:
        raise SystemExit(f"{arguments.name}: there are {', '.join(there)}")
    hashes = {name: read_header(path)["sha256"] for name, path in there.items()}
    known = {key: rows for key, rows in json.loads(FIGURES.read_text()).items() if key in hashes.values()}
    rows = {row["evaluations"]: row for row in known.get(hashes[arguments.name], [])}
    told: dict[int, dict[str, object]] = {}
    for row in map(row_of, arguments.figures):
        told[row["evaluations"]] = row | told.get(row["evaluations"], {})
    rows |= told
    known[hashes[arguments.name]] = [rows[count] for count in sorted(rows)]
    with write_atomically(FIGURES) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
