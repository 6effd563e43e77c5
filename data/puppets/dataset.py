"""The dataset on disk: clips of puppets in `train/` and `test/`, each with its landmarks beside it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.puppets.identity import Background, Puppet
from data.puppets.landmarks import LANDMARKS, landmarks, moving_places
from data.puppets.motion import Pose, portrait_motion, random_motion
from data.puppets.render import render
from media.writer import VideoWriter
from utils.errors import UserError
from utils.files import new_folder
from utils.progress import Progress
from utils.workers import in_parallel

CLIPS_PER_IDENTITY = 4
FPS = 25


@dataclass(frozen=True)
class Clip:
    """One clip to write; its pixels follow from all but `path` alone."""

    path: Path  # without the .npz beside it; no suffix is a folder of png files
    seed: int
    identity: int
    number: int
    frames: int
    size: int
    framing: str = "close"

    def performance(self) -> tuple[Puppet, list[Pose]]:
        """Who is in the clip, and a pose for each frame."""
        puppet = Puppet.random(np.random.default_rng([self.seed, self.identity]))
        rng = np.random.default_rng([self.seed, self.identity, self.number])
        puppet = replace(puppet, background=Background.random(rng))
        if self.framing == "wide":
            return puppet, random_motion(rng, self.frames)
        # In every second clip the head hardly moves, so that lids and lips are all there is to learn.
        return puppet.close_up(), portrait_motion(rng, self.frames, still=self.number % 2 == 1)


def write_clip(clip: Clip) -> None:
    """Draw and encode one clip and its landmarks."""
    puppet, poses = clip.performance()
    with VideoWriter(clip.path, FPS) as writer:
        for pose in poses:
            writer.write(render(puppet, pose, clip.size))
    xy = np.stack([landmarks(puppet, pose) for pose in poses]).astype(np.float32)  # (frames, L, 2)
    moving = np.stack([moving_places(puppet, pose) for pose in poses]).astype(np.float32)  # (frames, 3, 2)
    openness = np.array([(1 - pose.blink, pose.mouth) for pose in poses], np.float32)  # (frames, 2)
    stem = clip.path.name.removesuffix(".mp4")
    names = np.array(LANDMARKS)
    np.savez(clip.path.with_name(f"{stem}.npz"), xy=xy, names=names, openness=openness, moving=moving)


def plan(
    folder: Path, videos: int, frames: int, size: int, format: str, seed: int, framing: str = "close"
) -> list[Clip]:
    """The clips of a dataset, `CLIPS_PER_IDENTITY` of each identity.

    Every tenth identity, and at least one, is in `test`.
    """
    identities = max(2, -(-videos // CLIPS_PER_IDENTITY))
    tests = range(min(9, identities - 1), identities, 10)
    suffix = "" if format == "png" else ".mp4"
    clips = []
    for video in range(videos):
        number, identity = divmod(video, identities)
        split = "test" if identity in tests else "train"
        path = folder / split / f"id{identity:05d}#{number:05d}{suffix}"
        clips.append(Clip(path, seed, identity, number, frames, size, framing))
    return clips


def make_dataset(
    out: Path, videos: int, frames: int, size: int, format: str, seed: int, framing: str = "close"
) -> None:
    """Write a dataset under a temporary name beside `out`, and rename it when it is whole.

    `format` is "png" or "mp4", `framing` "close" or "wide". Raises `UserError` if `out` exists.
    """
    if out.exists():
        raise UserError(f"--out {out} exists already; name a new folder, or remove it first")
    try:
        with new_folder(out) as temporary:
            for split in ("train", "test"):
                (temporary / split).mkdir()
            clips = plan(temporary, videos, frames, size, format, seed, framing)
            # One process for each core; an error or a signal ends them all.
            with (
                Progress(len(clips), "puppets", "clips") as progress,
                contextlib.closing(in_parallel(write_clip, clips, os.cpu_count() or 1)) as written,
            ):
                for _ in written:
                    progress.advance(1)
    except OSError as error:
        raise UserError(f"--out {out} can't be written: {error.strerror or error}") from error
