"""Put trained weights into the package: adds the golden sample that ``moldiff doctor`` makes again, and measured figures.

    python scripts/ship_weights.py RUN/weights.safetensors qm9-tiny --figures figures.json

``figures.json``: rows written by ``scripts/sweep_sampler.py``; they are printed by ``moldiff info``.
"""

import argparse
import json
from pathlib import Path

from moldiff.doctor import GOLDEN, golden_sample
from moldiff.generation import Generator
from moldiff.model import Model

WEIGHTS = Path(__file__).parent.parent / "moldiff" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="weights written by `moldiff train`")
    parser.add_argument("name", help="name of the shipped set, the preset's")
    parser.add_argument("--figures", type=Path, help="JSON with measured figures")
    arguments = parser.parse_args()
    model = Model.load(arguments.source)
    model.info |= {
        "golden": golden_sample(Generator(model, arguments.name, arguments.source)),
        "golden_request": GOLDEN,
    }
    if arguments.figures:
        model.info["figures"] = json.loads(arguments.figures.read_text())
    target = WEIGHTS / f"{arguments.name}.safetensors"
    model.save(target)
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB, sha256 of the weights {model.sha256[:16]}…")


if __name__ == "__main__":
    main()
