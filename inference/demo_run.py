"""What `demo.py` does with its options: the files are opened, the networks loaded, the results made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from checkpoints.files import find_checkpoint
from faces.cuts import CropSettings
from inference.animation import Driving, FittedClip, SavedMotion, Settings
from inference.engines import AnyNetworks, check_installed
from inference.graphs import NEEDED
from inference.inputs import (
    Inputs,
    are_several,
    check_outputs,
    driving_paths,
    hints,
    make_pairs,
    missing_pairs,
    motion_path,
    open_clips,
    stretched,
)
from inference.jobs import Job, check_best_frame, make_job
from inference.motion import load_motion, save_motion
from inference.networks import fingerprint_of, load_networks, model_size
from inference.pairs import animate_pair, animate_pairs, write_preview
from inference.samples import ROOT, SAMPLE
from media.clips import Clip
from media.pictures import read_image_size
from modules.build import read_config
from modules.util import Keypoints
from utils.device import best_precision, pick_device, precision_hints
from utils.errors import UserError

Chosen = TypeVar("Chosen", Settings, CropSettings)


def run_demo(options: argparse.Namespace) -> None:
    """Write what the options of `demo.py` ask for. Raises `UserError`."""
    if options.engine != "torch":
        check_installed(f"--engine {options.engine}", *NEEDED, options.engine)
    inputs = with_samples(wanted_inputs(options))
    every_pair = make_pairs(inputs, options)
    check_outputs(options, inputs, every_pair)
    pairs = missing_pairs(every_pair, options.skip_existing)
    if not pairs:
        return
    sources = {pair.source: read_image_size(pair.source) for pair in pairs}
    clips, background = open_clips(
        [pair.driving for pair in pairs if options.driving_motion is None], options.background, options.fps
    )
    config_path, checkpoint = named_or_given(options, inputs)
    config = read_config(config_path)
    size = model_size(config, config_path)
    device = pick_device("cpu" if options.cpu or options.engine != "torch" else options.device)
    if options.precision == "auto":
        options.precision = best_precision(device) if options.engine == "torch" else "fp32"
    job = make_job(
        chosen(Settings, options),
        chosen(CropSettings, options),
        size,
        options.size,
        paste_back=options.paste_back,
        audio=options.audio,
        background=background,
        cpu=options.cpu,
    )
    lines = hints(job.settings, stretched(sources, clips, job.crops), size)
    for line in lines + precision_hints(device, options.precision):
        print(f"hint: {line}", file=sys.stderr)
    if options.preview is not None:
        write_preview(options.preview, list(sources), list(clips.values()), job)
        return
    uses_motion_file = options.driving_motion is not None or options.save_motion is not None
    fingerprint = fingerprint_of(config, checkpoint) if uses_motion_file else ""
    drivings = {
        path: driving_of(path, clips, job, fingerprint) for path in dict.fromkeys(p.driving for p in pairs)
    }
    for driving in drivings.values():
        check_best_frame(job.settings.best_frame, driving)

    def networks() -> AnyNetworks:
        """Loaded after faces were looked for: who gave the wrong picture should not wait."""
        if options.engine != "torch":
            from inference.exports import engine_networks  # slow, for its packages that download

            return engine_networks(options.engine, config, config_path, checkpoint)
        return load_networks(config, config_path, checkpoint, device, options.plain, job.settings.precision)

    def keep(path: Path, motion: Iterable[Keypoints]) -> None:
        """Save the motion of a driving video if that is asked for."""
        if options.save_motion is not None:
            target = motion_path(options.save_motion, path, len(driving_paths(inputs)))
            if target != options.save_motion:
                options.save_motion.mkdir(exist_ok=True)
            save_motion(target, motion, drivings[path].fps, fingerprint)

    if are_several(every_pair, inputs):
        animate_pairs(networks, pairs, drivings, job, keep)
    else:
        animate_pair(networks, pairs[0], drivings[pairs[0].driving], job, keep)


def chosen(kind: type[Chosen], options: argparse.Namespace) -> Chosen:
    """Settings from the options that have their names."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


def driving_of(path: Path, clips: Mapping[Path, Clip], job: Job, fingerprint: str) -> Driving:
    """A driving video, or a motion file where there is none of that name. Raises `UserError`."""
    if path in clips:
        return FittedClip(clips[path], job.sizes[0], job.settings.fit)
    return SavedMotion(load_motion(path, fingerprint), path)


def wanted_inputs(options: argparse.Namespace) -> dict[str, list[Path] | None]:
    """The options that name inputs. A model by name brings its own config and checkpoint."""
    model = () if options.model is None else ("config", "checkpoint")
    wanted = {name: listed(getattr(options, name)) for name in SAMPLE if name not in model}
    if options.driving_motion is not None:
        del wanted["driving_video"]
    for name in ("driving_motion", "background"):
        if getattr(options, name) is not None:
            wanted[name] = listed(getattr(options, name))
    return wanted


def listed(value: Path | list[Path] | None) -> list[Path] | None:
    return [value] if isinstance(value, Path) else value


def named_or_given(options: argparse.Namespace, inputs: Inputs) -> tuple[Path, Path]:
    """The config and the checkpoint, which may be downloaded for this. Raises `UserError`.

    A preview needs the config alone.
    """
    if options.model is not None:
        from checkpoints.hub import find_model  # slow, for its packages that download

        return find_model(options.model, options.offline, download_it=options.preview is None)
    return inputs["config"][0], find_checkpoint(inputs["checkpoint"][0])


def with_samples(given: Mapping[str, list[Path] | None]) -> dict[str, list[Path]]:
    """The inputs, and the sample where one is not given. Raises `UserError` where that is not there."""
    inputs = {name: paths or [SAMPLE[name]] for name, paths in given.items()}
    for name, paths in inputs.items():
        if given[name] is None and not paths[0].exists():
            wanted = ", ".join(f"--{name}" for name in SAMPLE)
            raise UserError(f"{paths[0].relative_to(ROOT)} is not in this checkout: give {wanted}")
    return inputs
