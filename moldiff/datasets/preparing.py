"""A chemist's own files as a training set: ``moldiff data prepare FILE... -o DIR``.

Records are curated in processes (:mod:`moldiff.datasets.curation`) and kept in shards on disk; when all are there,
duplicates are found, the vocabulary is taken and the split is drawn. The result depends neither on the number of
processes nor on interruptions, and no more than a shard and some bytes a molecule are in memory.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
from rdkit.Chem import GetPeriodicTable

from moldiff.chem import RDKIT_VERSION, token_name
from moldiff.crew import CRASH, TIMEOUT, Answer, Crew
from moldiff.datasets.curation import Curated, from_json
from moldiff.datasets.library import SPLIT_RULES, Item, Library, read_items, survey
from moldiff.datasets.prepared import SPLITS, PreparedDataError, Split, learned_from, sort_kinds, write_prepared
from moldiff.datasets.published import PUBLISHED
from moldiff.datasets.records import Record
from moldiff.datasets.selection import Members, Selection, dropped_rows, select
from moldiff.datasets.shards import SIZE, Dropped, Shard, Shards, discard, identity_hash, write_dropped
from moldiff.files import alone_in

CHUNK = 10  # records that a process gets at a time
UNKNOWN = ("", "nan")  # texts of a property without a value
LARGEST = float(np.finfo(np.float32).max)  # value that a set holds
Progress = Callable[[int, int], None]


def prepare_library(
    library: Library,
    directory: Path,
    jobs: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Build the prepared set in ``directory`` and return its metadata; goes on where an earlier call was ended.

    ``jobs``: processes (default: one per CPU). ``progress``: called with (done, total) records. ``force``: begin
    again, and replace a set that is there. Raises a :class:`moldiff.errors.MoldiffError` when a file cannot be read or
    too little is left of it, or another call prepares a set there.
    """
    library, records = survey(library)
    with alone_in(directory):
        return _prepared(library, records, directory, jobs or os.cpu_count() or 1, progress, force)


def _prepared(
    library: Library, records: list[int], directory: Path, jobs: int, progress: Progress | None, force: bool
) -> dict[str, Any]:
    """What :func:`prepare_library` does with files that are surveyed."""
    request = library.request()
    if force:
        discard(directory)
    shards = Shards(directory, request)
    _curate_all(library, shards, sum(records), jobs, progress)
    try:
        selection = select(library, shards)
        members = {name: Members(shards, selection, number) for number, name in enumerate(SPLITS)}
        train = (split for split, _ in members["train"])
        learned = learned_from(train, selection.vocabulary, library.properties, library.curation.hydrogens)
    except PreparedDataError:  # whatever is corrected makes another request, which work that is there would refuse
        shards.remove()
        raise
    reasons: Counter[str] = Counter()
    write_dropped(directory / "dropped.csv", dropped_rows(library, shards, selection, records, reasons))
    meta = {
        "name": directory.resolve().name,
        "vocabulary": selection.vocabulary,
        **learned,
        **library.origin,
        "source_sha256": request["sha256"],
        "first_row": dict(zip(library.labels, [1 + n for n in accumulate(records, initial=0)], strict=False)),
        "split": _split_rule(library),
        "settings": {
            **asdict(library.curation), "min_count": library.min_count, "timeout": library.timeout,
            "limit": library.limit, "computed": library.computed, "rdkit": RDKIT_VERSION,
        },
        "counts": {
            "read": library.taken(sum(records)), "kept": int((selection.name >= 0).sum()),
            "dropped": dict(sorted(reasons.items())),
            **_kept(library, shards, selection),
        },
    }  # fmt: skip
    meta = write_prepared(directory, members, meta)
    shards.remove()
    return meta


def _curate_all(library: Library, shards: Shards, total: int, jobs: int, progress: Progress | None) -> None:
    """Make the shards that are missing."""
    done = len(shards) * SIZE
    waiting: deque[Item] = deque()
    there, total = total, library.taken(total)

    def records() -> Iterator[Record]:
        for item in islice(read_items(library, there), done, None):
            waiting.append(item)
            yield item.record

    options = {**asdict(library.curation), "fields": library.given, "computed": library.computed}
    with Crew(jobs, library.timeout, "moldiff.datasets.curation") as crew:
        answers = crew.map("curations", records(), CHUNK, **options)
        while done < total:
            pairs = []
            for answer in islice(answers, SIZE):
                pairs.append((waiting.popleft(), answer))
                if progress:
                    progress(done + len(pairs), total)
            shards.add(make_shard(library, pairs))
            done += len(pairs)


def make_shard(library: Library, pairs: Sequence[tuple[Item, Answer]]) -> Shard:
    """The molecules among the answers, and why the others are none."""
    kept: list[tuple[Item, Curated]] = []
    values, dropped = [], []
    for item, answer in pairs:
        found, reason, detail = _outcome(library, answer)
        numbers, problem = _numbers(library, item, found) if found else ([], "")
        if found is None or problem:
            r = item.record
            why = (reason, detail) if found is None else ("property", problem)
            dropped.append(Dropped(item.source, item.file, r.number, r.where, r.id, *why))
        else:
            kept.append((item, found))
            values.append(numbers)
    structures = [found.structure for _, found in kept]
    kinds = sort_kinds({kind for structure in structures for kind in structure.kinds})
    properties = np.array(values, dtype=np.float32).reshape(len(kept), len(library.properties))
    return Shard(
        split=Split.pack(structures, kinds, properties, [item.source for item, _ in kept]),
        vocabulary=[token_name(GetPeriodicTable().GetElementSymbol(number), charge) for number, charge in kinds],
        smiles=[structure.smiles for structure in structures],
        identity=[identity_hash(found.identity) for _, found in kept],
        scaffold=[identity_hash(found.scaffold or found.identity) for _, found in kept],
        origin=[found.origin for _, found in kept],
        id=[item.record.id for item, _ in kept],
        where=[item.record.where for item, _ in kept],
        dropped=dropped,
    )


def _outcome(library: Library, answer: Answer) -> tuple[Curated | None, str, str]:
    """The molecule, or None, the reason and the detail."""
    if answer.value is None:
        known = {TIMEOUT: f"more than {library.timeout:g} s; see --timeout", CRASH: "RDKit ended its process"}
        reason = answer.reason if answer.reason in known else "error"
        return None, reason, known.get(reason, answer.reason)
    if "reason" in answer.value:
        return None, answer.value["reason"], answer.value["detail"]
    return from_json(answer.value), "", ""


def _numbers(library: Library, item: Item, found: Curated) -> tuple[list[float], str]:
    """The properties, NaN where there is no value, and what is wrong with one of them."""
    numbers, texts = [], iter(found.fields if item.properties is None else item.properties)
    for name in library.names:
        if name in library.computed:
            numbers.append(found.computed[name])
            continue
        text = next(texts)
        unknown = text is None or text.strip().lower() in UNKNOWN
        numbers.append(math.nan if unknown else _number(text))
        if math.isinf(numbers[-1]):
            return [], f"{name} is {text!r}, no number up to {LARGEST:.1e}; leave it empty where it is unknown"
    return numbers, ""


def _number(text: str) -> float:
    """Infinite for what is none, or too large for float32."""
    try:
        number = math.inf if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        return math.inf
    return math.inf if abs(number) > LARGEST else number


def _kept(library: Library, shards: Shards, selection: Selection) -> dict[str, Any]:
    """Where the coordinates of the molecules in the set are from, and how many have no value of each property."""
    origins: Counter[str] = Counter()
    unknown = np.zeros(len(library.properties), dtype=np.int64)
    start = 0
    for shard in shards:
        kept = selection.name[start : start + len(shard.split)] >= 0
        start += len(shard.split)
        origins.update(origin for origin, there in zip(shard.origin, kept.tolist(), strict=True) if there)
        unknown += np.isnan(shard.split.properties[kept]).sum(0)
    return {
        "coordinates": dict(sorted(origins.items())),
        "unknown": dict(zip(library.names, unknown.tolist(), strict=True)),
    }


def _split_rule(library: Library) -> str:
    how = SPLIT_RULES[library.split].format(library.curation.seed)
    what = f" (of {PUBLISHED[library.source].split})" if library.source else ""
    return f"{how}; valid {library.valid:g}, test {library.test:g}; after everything else had been dropped{what}"
