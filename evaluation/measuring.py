"""Every frame of every pair of clips through every instrument, once.

An instrument is a detector (`detectors.py`), which looks at the generated and at the real clip, or a comparison
(`comparisons.py`), which looks at both together. Shapes: `T` frames of a clip.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from evaluation.cache import Cache
from evaluation.clips import EvaluatedClip, Pair
from progress import Progress

BATCH = 16  # frames an instrument looks at together

Measured = dict[
    str, list[np.ndarray]
]  # by role: [(T, ...) of the generated, of the real clip], or [(T,)] of a comparison


class Task(NamedTuple):
    """An instrument and what it looks at: the generated clip (0,), the real one (1,), or both (0, 1)."""

    role: str
    instrument: object
    sides: tuple[int, ...]

    def place_and_key(self, pair: Pair) -> tuple[str, EvaluatedClip, str]:
        """Where the cache keeps the result (beside the generated clip, if both are looked at), and under which key."""
        clips = [(pair.generated, pair.real)[side] for side in self.sides]
        key = " | ".join([self.instrument.version, *(clip.identity for clip in clips)])
        return self.instrument.name, clips[0].path, key


def measure(
    pairs: list[Pair], detectors: dict, comparisons: dict, device: str | None, cache: Cache
) -> dict[str, Measured]:
    """What the instruments, given by role, say of each pair, by its name; only what isn't in the cache is computed.

    A pair's results are in the cache as soon as it is done, so that a run that was stopped goes on there. `device` as
    `device.pick_device` takes it. Raises `UserError` if an instrument that is needed can't be loaded.
    """
    tasks = [Task(role, instrument, (side,)) for role, instrument in detectors.items() for side in (0, 1)]
    tasks += [Task(role, instrument, (0, 1)) for role, instrument in comparisons.items()]
    results = {pair.name: {task: cache.load(*task.place_and_key(pair)) for task in tasks} for pair in pairs}
    unfinished = [pair for pair in pairs if any(values is None for values in results[pair.name].values())]
    if unfinished:
        _compute(unfinished, results, device, cache)
    return {name: _by_role(values) for name, values in results.items()}


def _by_role(values: dict[Task, np.ndarray]) -> Measured:
    measured = defaultdict(list)
    for task, array in values.items():
        measured[task.role].append(array)
    return dict(measured)


def _compute(
    pairs: list[Pair], results: dict[str, dict[Task, np.ndarray | None]], device: str | None, cache: Cache
) -> None:
    from device import pick_device

    picked = pick_device(device)
    missing = {
        pair.name: [task for task, values in results[pair.name].items() if values is None] for pair in pairs
    }
    for instrument in {task.instrument for tasks in missing.values() for task in tasks}:
        instrument.load(picked)
    with Progress(sum(pair.real.length for pair in pairs), "evaluation", "frames") as progress:
        for pair in pairs:
            for task, values in _look_at(pair, missing[pair.name], progress).items():
                results[pair.name][task] = values
                cache.store(*task.place_and_key(pair), values)


def _look_at(pair: Pair, tasks: list[Task], progress: Progress) -> dict[Task, np.ndarray]:
    """Decode both clips once, side by side, for all `tasks`."""
    chunks = defaultdict(list)
    for frames in zip(
        pair.generated.batches(BATCH), pair.real.batches(BATCH), strict=True
    ):  # 2 × (B, H, W, 3)
        for task in tasks:
            chunks[task].append(task.instrument(*(frames[side] for side in task.sides)))
        progress.advance(len(frames[0]), pair.name)
    return {task: np.concatenate(parts) for task, parts in chunks.items()}
