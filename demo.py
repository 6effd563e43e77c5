"""Animate a picture with a video: the object in the picture moves as the one in the video does.

    python demo.py
    python demo.py --model vox --relative --adapt_scale --audio \\
        --source_image portrait.jpg --driving_video talk.mp4

Without --model, or --config and --checkpoint, the small model of sup-mat/ is used, without --source_image
or --driving_video its sample. Several sources and driving videos make all pairs, in a folder.

Frames are read, animated and written one after another, so the driving video may be of any length. In
notebooks, use `load_checkpoints` and `make_animation`.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import functools
from dataclasses import replace

from inference.options import DemoOptions
from media.pictures import read_image_size
from utils.hints import hint
from utils.options import OptionParser, add_options, typed
from utils.program import command_line
from utils.progress import frames_bar

if __name__ != "__main__":  # the published names, for notebooks
    from inference.interface import load_checkpoints, make_animation

__all__ = ["load_checkpoints", "main", "make_animation"]

# ---- Options -----------------------------------------------------------------


def parse(argv: list[str] | None) -> DemoOptions:
    """Read the options; a wrong value, or two that don't go together, end the program with one line."""
    parser = OptionParser(__doc__)
    add_options(parser, DemoOptions)
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parsed = parser.parse_args(argv)
    options = typed(DemoOptions, parsed)
    if parsed.cpu and options.device not in (None, "cpu"):
        parser.error(f"--cpu and --device {options.device} exclude each other")
    for problem, is_so in contradictions(options).items():
        if is_so:
            parser.error(problem)
    if parsed.cpu:
        options = replace(options, device="cpu")
    return options.resolved()


def contradictions(options: DemoOptions) -> dict[str, bool]:
    """Return what to say of options that don't go together, and whether they are given so."""
    cuts_source = options.crop or options.crop_source is not None
    finds_source = options.crop and options.crop_source is None
    several = options.face == "all" and not options.paste_back and options.preview is None
    motion = options.driving_motion is not None
    frames_needed = [
        name
        for name in ("audio", "side_by_side", "crop_driving", "save_motion", "start", "end")
        if motion and getattr(options, name)
    ]
    return {
        "--model stands for a config and a checkpoint: give it, or --config and --checkpoint": (
            options.model is not None and (options.config is not None or options.checkpoint is not None)
        ),
        "--config and --checkpoint go together: a checkpoint fits the config it was trained with": (
            (options.config is None) != (options.checkpoint is None)
        ),
        "--face needs --crop, which finds faces": options.face != "largest" and not finds_source,
        "--face all needs --paste_back, which puts the faces into one picture": several,
        "--paste_back needs --crop or --crop_source": options.paste_back and not cuts_source,
        "--background needs --paste_back, which puts the crops into it": (
            options.background is not None and not options.paste_back
        ),
        "--source_video and --source_image exclude each other": (
            options.source_video is not None and options.source_image is not None
        ),
        "--source_video needs --crop or --crop_source": options.source_video is not None and not cuts_source,
        "--source_video goes with one driving video, without --background, --face and --save_motion": (
            options.source_video is not None
            and (
                len(options.driving_video or options.driving_motion or ()) > 1
                or options.background is not None
                or options.face != "largest"
                or options.save_motion is not None
            )
        ),
        "--driving_motion and --driving_video exclude each other": (
            motion and options.driving_video is not None
        ),
        **{f"--{name} needs a driving video, not --driving_motion": True for name in frames_needed},
        "--paste_back and --side_by_side exclude each other": options.paste_back and options.side_by_side,
        "--preview shows what is cut: it needs --crop, --crop_source or --crop_driving": (
            options.preview is not None and not cuts_source and options.crop_driving is None
        ),
        "--absolute and --relative exclude each other": options.absolute and options.relative,
        "--strength needs --relative, or --paste_back without --absolute": (
            options.strength != 1 and not options.resolved().relative
        ),
        "--end must be after --start": options.end is not None and options.end <= (options.start or 0),
        "--max_side must be 0 or at least 16": options.max_side != 0 and options.max_side < 16,
    }


# ---- The program -------------------------------------------------------------


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    # Here, so that --help and a mistyped option answer at once, without PyTorch.
    from inference import command, inputs, jobs, networks
    from inference.animation import KnownMotion
    from modules.build import read_config
    from utils.device import best_precision, pick_device, precision_hints

    # Which files are read and written?
    options = inputs.with_sample(options)
    pairs = inputs.make_pairs(options)
    inputs.check_outputs(options, pairs)
    pairs = inputs.missing_pairs(pairs, options.skip_existing)
    if not pairs:
        return
    pictures = [] if options.source_video is not None else [pair.source for pair in pairs]
    sources = {path: read_image_size(path) for path in pictures}
    clips = inputs.open_clips(options, pairs)

    # Which model, where does it run, and how?
    config_path, checkpoint = inputs.model_files(options)
    config = read_config(config_path)
    size = networks.model_size(config, config_path)
    device = pick_device(options.device)
    if options.precision == "auto":
        options = replace(options, precision=best_precision(device))
    job = jobs.make_job(options, size, clips)
    for line in inputs.hints(options, sources, clips.drivings, size) + precision_hints(
        device, options.precision
    ):
        hint(line)

    # A preview is drawn without any network.
    if options.preview is not None:
        jobs.write_preview(options.preview, sources, job, frames_bar)
        return

    # Keypoints mean something to the model alone that found them.
    uses_motion = options.driving_motion is not None or options.save_motion is not None
    fingerprint = networks.fingerprint_of(config, checkpoint) if uses_motion else ""
    motions = {path: KnownMotion.read(path, fingerprint, config) for path in options.driving_motion or ()}
    job = replace(job, drivings={**clips.drivings, **motions})
    for pair in pairs:
        jobs.check_best_frame(options.best_frame, job.drivings[pair.driving], pair.driving)

    # Networks are loaded after faces were looked for: a wrong picture is told without waiting.
    given = config, config_path, checkpoint, device, options.plain, options.precision
    command.write_and_report(functools.partial(networks.load_networks, *given), pairs, job, fingerprint)


if __name__ == "__main__":
    main()
