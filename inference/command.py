"""The whole of the demo's command: all results with bars, lines and signals.

The page has its own.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.inputs import DemoPair, in_folder, inputs_of, motion_path
from inference.jobs import Done, Job, find_places, write_results
from inference.motion import save_motion
from inference.networks import InferenceNetworks
from inference.options import DemoOptions
from media.clips import Clip
from media.writer import check_target
from utils.distributed import in_torchrun, rank
from utils.hints import warn
from utils.options import as_words
from utils.program import say
from utils.progress import Cancelled, PartialProgress, Progress, ShowProgress, frames_bar
from utils.signals import caught_signals
from utils.work import SharedWork

REMEDY = "--skip_existing makes them alone"


def write_and_report(
    load: Callable[[], InferenceNetworks],
    pairs: Sequence[DemoPair],
    job: Job,
    fingerprint: str,
) -> None:
    """Write all results, report them, and save the motions that are wanted. A signal ends the program.

    `load` gives the networks, `fingerprint` marks files of their motion. At a signal a single result keeps
    its frames, of several the unfinished one is dropped; processes of torchrun, which share them, finish it.
    """
    several, folder, finished = in_folder(job.options), pairs[0].result.parent, 0
    saved: set[Path] = set()  # files of motion
    if not several:
        leading = job.source_clip or job.drivings[pairs[0].driving]
        check_target(pairs[0].result, leading.fps, len(leading))
    with contextlib.ExitStack() as stack:
        # A bar for each pass over a single video, or one for all.
        show: ShowProgress = frames_bar
        tell: Callable[[str], None] = say
        if several:
            total = None if in_torchrun() else count_frames(pairs, job)
            bar = stack.enter_context(Progress(total, "animation", "frames", quiet=rank() != 0))
            show, tell = (lambda what, total: PartialProgress(bar, total, what)), bar.tell

        # Whoever gave a picture without a face should not wait for networks.
        places = find_places(dict.fromkeys(pair.source for pair in pairs), job, show)
        wanted, pairs = pairs, [pair for pair in pairs if pair.source in places.sources]
        networks = load()
        if several:
            folder.mkdir(exist_ok=True)

        # A second signal does not break off the last writes.
        caught = stack.enter_context(caught_signals())
        work = stack.enter_context(SharedWork([str(pair.result) for pair in pairs], REMEDY))

        def cancelled() -> bool:
            if caught and several:
                raise Cancelled
            return bool(caught)

        taken, more = work.share(pairs), len(pairs) > 1
        try:
            for done in write_results(networks, taken, more, job, places, show, cancelled):
                finished += 1
                path = motion_path(job.options, done.pair.driving)
                if path is not None and path not in saved:
                    saved.add(path)
                    save_motion(path, done.written.keypoints, done.fps, fingerprint)
                report(done, tell)
                if done.written.frames < done.expected:
                    sys.exit(128 + caught[0])
        except Cancelled:
            if several:
                say(f"stopped: {folder} has {finished} of {len(pairs)} results", sys.stderr)
            sys.exit(128 + caught[0])
    if len(pairs) < len(wanted):
        sys.exit(1)


def report(done: Done, tell: Callable[[str], None]) -> None:
    """Tell how long a result took; why it has no sound, or not all frames, goes to stderr."""
    if done.audio_note is not None:
        warn(done.audio_note)
    if done.written.best_frame is not None:
        tell(f"Best frame: {done.written.best_frame}")
    tell(f"{done.pair.result}: {done.figures}")
    if (frames := done.written.frames) < (expected := done.expected):
        say(f"stopped: {done.pair.result} holds {frames} of {expected} frames", sys.stderr)


def count_frames(pairs: Sequence[DemoPair], job: Job) -> int:
    """Count the frames of all passes over the driving videos of several results."""
    finds_faces = job.options.crop and job.options.crop_driving is None
    passes = finds_faces + (len(pairs) > 1 or job.options.measured_elsewhere)
    clips = [driving for driving in job.drivings.values() if isinstance(driving, Clip)]
    return passes * sum(map(len, clips)) + sum(len(job.drivings[pair.driving]) for pair in pairs)


def command_of(options: DemoOptions) -> str:
    """Write the command that makes the same of files in the working folder."""
    names: dict[str, Any] = {"offline": False}
    for name, paths in inputs_of(options).items():
        bare = tuple(Path(path.name) for path in paths)
        names[name] = bare if isinstance(getattr(options, name), tuple) else bare[0]
    return shlex.join(["python", "demo.py", *as_words(replace(options, **names))])
