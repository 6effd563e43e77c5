"""Every frame of every pair of clips through every instrument, once.

An instrument is a detector (`detectors.py`), which looks at the generated and at the real clip, or a
comparison (`comparisons.py`), which looks at both together. Shapes: `T` frames of a clip, `B` frames of a
batch.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.cache import Cache
from evaluation.clips import EvaluatedClip, Pair
from evaluation.instrument import Instrument
from utils.progress import Progress

BATCH = 16  # frames an instrument looks at together

# By role: [(T, ...) of the generated, (T, ...) of the real clip] from a detector, [(T,)] from a comparison.
Measured = dict[str, list[np.ndarray]]


class Task(NamedTuple):
    """An instrument and what it looks at: the generated clip (0,), the real one (1,), or both (0, 1)."""

    role: str
    instrument: Instrument
    sides: tuple[int, ...]

    def place_and_key(self, pair: Pair) -> tuple[str, Path, str]:
        """The arguments of `Cache.load`. A result for both clips is stored beside the generated one."""
        clips: list[EvaluatedClip] = [(pair.generated, pair.real)[side] for side in self.sides]
        key = " | ".join([self.instrument.version, *(clip.fingerprint for clip in clips)])
        return self.instrument.name, clips[0].path, key


Results = dict[Task, np.ndarray]


def measure(
    pairs: list[Pair],
    detectors: dict[str, Instrument],
    comparisons: dict[str, Instrument],
    device: str | None,
    cache: Cache,
) -> dict[str, Measured]:
    """What the instruments, given by role, find in each pair, by the pair's name.

    Only what isn't cached is computed. The results of a pair are cached as soon as it is done, so that a run
    that was stopped goes on there. `device` is as in `device.pick_device`. Raises `UserError` if an
    instrument that is needed can't be loaded.
    """
    tasks = [Task(role, instrument, (side,)) for role, instrument in detectors.items() for side in (0, 1)]
    tasks += [Task(role, instrument, (0, 1)) for role, instrument in comparisons.items()]
    results = {pair.name: _cached_results(pair, tasks, cache) for pair in pairs}
    unfinished = [pair for pair in pairs if len(results[pair.name]) < len(tasks)]
    if unfinished:
        _compute(unfinished, tasks, results, device, cache)
    return {name: _by_role(tasks, found) for name, found in results.items()}


def _cached_results(pair: Pair, tasks: list[Task], cache: Cache) -> Results:
    found = {task: cache.load(*task.place_and_key(pair)) for task in tasks}
    length = pair.real.length
    return {
        task: values for task, values in found.items() if values is not None and values.shape[:1] == (length,)
    }


def _by_role(tasks: list[Task], results: Results) -> Measured:
    measured: Measured = defaultdict(list)
    for task in tasks:
        measured[task.role].append(results[task])
    return dict(measured)


def _compute(
    pairs: list[Pair], tasks: list[Task], results: dict[str, Results], device: str | None, cache: Cache
) -> None:
    """Fill the gaps in `results` and the cache."""
    from utils.device import pick_device  # both import torch, which takes seconds

    picked = pick_device(device)
    missing = {pair.name: [task for task in tasks if task not in results[pair.name]] for pair in pairs}
    for instrument in {task.instrument for absent in missing.values() for task in absent}:
        instrument.load(picked)
    with Progress(sum(pair.real.length for pair in pairs), "evaluation", "frames") as progress:
        for pair in pairs:
            for task, values in _look_at(pair, missing[pair.name], progress).items():
                results[pair.name][task] = values
                cache.store(*task.place_and_key(pair), values)


def _look_at(pair: Pair, tasks: list[Task], progress: Progress) -> Results:
    """Decode both clips once, side by side, for all `tasks`."""
    chunks: dict[Task, list[np.ndarray]] = defaultdict(list)
    for frames in zip(pair.generated.batches(BATCH), pair.real.batches(BATCH), strict=True):
        for task in tasks:
            chunks[task].append(task.instrument(*(frames[side] for side in task.sides)))  # (B, ...)
        progress.advance(len(frames[0]), pair.name)
    return {task: np.concatenate(parts) for task, parts in chunks.items()}
