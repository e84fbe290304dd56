"""Put trained weights into the package, with the golden sample that ``moldiff doctor`` makes again.

    python scripts/ship_weights.py RUN/weights.safetensors qm9-tiny

Qualities, time grid, temperature and what molecules are told are those of the preset of this name. ``--examples DIR`` takes
examples of properties that occur together from a prepared set, for weights of one that was prepared before there were any.
``--fast`` is for the pupils of `scripts/distill.py`, which make what is asked of their teacher with few evaluations.
What they are measured to give is told by `scripts/ship_figures.py`.
"""

import argparse
import dataclasses
from pathlib import Path

from moldiff.config import preset
from moldiff.datasets.prepared import learned_from, read_split
from moldiff.doctor import golden_sample
from moldiff.generation import Generator
from moldiff.model import Model
from moldiff.model_file import HISTORY, DataInfo, TrainedNetwork
from moldiff.predictions import HELPERS

WEIGHTS = Path(__file__).parent.parent / "moldiff" / "weights"


def with_examples(data: DataInfo, folder: Path) -> DataInfo:
    split = read_split(folder, "train")
    found = learned_from([split], data.vocabulary, [(p.name, p.unit) for p in data.properties], data.hydrogens)
    if [tuple(row) for row in found["compositions"]] != list(data.compositions):
        raise SystemExit(f"--examples {folder}: not the set that the weights were trained on")
    return DataInfo.from_dict(dataclasses.asdict(data) | {"examples": found["examples"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="weights written by `moldiff train`")
    parser.add_argument("name", help="name of the shipped set, the preset's (of a pupil, any)")
    parser.add_argument("--examples", type=Path, help="the prepared set that the weights were trained on")
    parser.add_argument("--fast", action="store_true", help="a pupil: of its teacher's --quality fast")
    arguments = parser.parse_args()
    if arguments.fast:
        pupil = Model.load(arguments.source)
        save(pupil, WEIGHTS / "fast" / f"{arguments.name}.safetensors")
        return
    for folder, kind in HELPERS.items():
        if preset(arguments.name).task == kind.TASK:
            helper = kind.load(arguments.source)
            helper.data = dataclasses.replace(helper.data, examples=())  # nothing is drawn for it
            save(helper, WEIGHTS / folder / f"{arguments.name}.safetensors")
            return
    trained, named = Model.load(arguments.source), preset(arguments.name)
    process = dataclasses.replace(trained.config.process, temperature=named.process.temperature)
    config = dataclasses.replace(trained.config, quality=named.quality, process=process)
    data = with_examples(trained.data, arguments.examples) if arguments.examples else trained.data
    history = {k: trained.info[k] for k in HISTORY if k in trained.info}
    model = Model(config, data, history).eval().requires_grad_(False)
    model.network.load_state_dict(trained.network.state_dict())
    generator = Generator(model, arguments.name, arguments.source)
    model.info |= {"golden": golden_sample(generator)}
    save(model, WEIGHTS / f"{arguments.name}.safetensors")


def save(model: TrainedNetwork, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    model.save(target)
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB, sha256 of the weights {model.sha256[:16]}…")


if __name__ == "__main__":
    main()
