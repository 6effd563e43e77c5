"""Put every frame of every pair of clips through every instrument, once.

An instrument is a detector (`detectors.py`), which looks at the generated and at the real clip, or a
comparison (`comparisons.py`), which looks at both together. Shapes: `T` frames of a clip, `B` frames of a
batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.cache import Cache
from evaluation.instrument import Instrument
from evaluation.matching import EvaluatedClip, Match
from utils.device import pick_device
from utils.distributed import rank
from utils.progress import Progress
from utils.work import SharedWork

BATCH = 16  # frames an instrument looks at together

# By role: [(T, ...) of the generated, (T, ...) of the real clip] from a detector, [(T,)] from a comparison.
ByRole = dict[str, list[np.ndarray]]


class Look(NamedTuple):
    """An instrument and the clips it is for: the generated one (0,), the real one (1,), or both (0, 1)."""

    role: str
    instrument: Instrument
    sides: tuple[int, ...]

    def place_and_key(self, pair: Match) -> tuple[str, Path, str]:
        """Return the arguments of `Cache.load`. A result for both clips lies beside the generated one."""
        clips: list[EvaluatedClip] = [(pair.generated, pair.real)[side] for side in self.sides]
        key = " | ".join([self.instrument.version, *(clip.fingerprint for clip in clips)])
        return self.instrument.name, clips[0].path, key


Findings = dict[Look, np.ndarray]  # for a pair


def measure_pairs(
    pairs: list[Match],
    detectors: dict[str, Instrument],
    comparisons: dict[str, Instrument],
    device: str | None,
) -> dict[str, ByRole] | None:
    """Return what the instruments, given by role, find in each pair, by the pair's name.

    Only what isn't cached is computed. The results of a pair are cached as soon as it is done, so that a run
    that was stopped goes on there. `device` is as in `device.pick_device`. The processes of torchrun share
    the pairs; one of them returns what all found, the others None. Raises `UserError` if an instrument that
    is needed can't be loaded.
    """
    # A detector looks at each clip, a comparison at both together.
    looks = [Look(role, instrument, (side,)) for role, instrument in detectors.items() for side in (0, 1)]
    looks += [Look(role, instrument, (0, 1)) for role, instrument in comparisons.items()]
    cache = Cache()
    results = {pair.name: _cached_results(pair, looks, cache) for pair in pairs}
    # Decode only where something is missing.
    unfinished = [pair for pair in pairs if len(results[pair.name]) < len(looks)]
    with SharedWork([pair.name for pair in unfinished], "the same command goes on with them") as work:
        if unfinished:
            _compute(unfinished, work.share(unfinished), looks, results, device, cache)
    if not work.reports():
        return None
    # What other processes found is cached, unless the folder can't be written to.
    for pair in unfinished:
        results[pair.name] |= _cached_results(pair, looks, cache)
    unfinished = [pair for pair in unfinished if len(results[pair.name]) < len(looks)]
    if unfinished:
        _compute(unfinished, unfinished, looks, results, device, cache)
    roles = [*detectors, *comparisons]
    return {
        name: {role: [found[look] for look in looks if look.role == role] for role in roles}
        for name, found in results.items()
    }


def _cached_results(pair: Match, looks: list[Look], cache: Cache) -> Findings:
    found = {look: cache.load(*look.place_and_key(pair)) for look in looks}
    length = pair.real.length
    return {
        look: values for look, values in found.items() if values is not None and values.shape[:1] == (length,)
    }


def _compute(
    pairs: list[Match],
    taken: Iterable[Match],
    looks: list[Look],
    results: dict[str, Findings],
    device: str | None,
    cache: Cache,
) -> None:
    """Fill the gaps in `results` and the cache for those of the pairs that are `taken`, perhaps all."""
    # Load only what has something to do.
    picked = pick_device(device)
    missing = {pair.name: [look for look in looks if look not in results[pair.name]] for pair in pairs}
    for instrument in {look.instrument for absent in missing.values() for look in absent}:
        instrument.load(picked)
    frames = sum(pair.real.length for pair in pairs)
    with Progress(frames, "evaluation", "frames", quiet=rank() != 0) as progress:
        for pair in taken:
            for look, values in _look_at(pair, missing[pair.name], progress).items():
                results[pair.name][look] = values
                cache.store(*look.place_and_key(pair), values)


def _look_at(pair: Match, looks: list[Look], progress: Progress) -> Findings:
    """Decode both clips once, side by side, for all `looks`."""
    chunks: dict[Look, list[np.ndarray]] = defaultdict(list)
    for frames in zip(pair.generated.batches(BATCH), pair.real.batches(BATCH), strict=True):
        for look in looks:
            chunks[look].append(look.instrument(*(frames[side] for side in look.sides)))  # (B, ...)
        progress.advance(len(frames[0]), pair.name)
    return {look: np.concatenate(parts) for look, parts in chunks.items()}
