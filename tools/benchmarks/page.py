"""Load on the web page: many people with good and broken files, or one who is live for long.

    python -m benchmarks.page load
    python -m benchmarks.page live --seconds 600 --camera clip.y4m

`load`: 20 people at once animate 200 pairs of files, 40 of which are broken. Every result must have the
length and the brightness of its own files. `live`: rate, latency and memory of the server over time.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import read_image, write_image
from media.writer import VideoWriter
from tools.browser import browser_arguments, find_chromium, served

PEOPLE, FILES, BROKEN = 20, 200, 40
SECONDS_KEPT = 30
KEEP = ("--keep", str(SECONDS_KEPT))


def memory_mib(process: subprocess.Popen) -> float:
    """What the server holds now, by /proc of Linux."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


# ---- Many people ---------------------------------------------------------------


def write_pair(folder: Path, number: int) -> tuple[Path, Path]:
    """A picture and a video that no other number has: by brightness and by length."""
    picture, video = folder / f"{number}.png", folder / f"{number}.mp4"
    write_image(picture, (read_image(SAMPLE["source_image"]) * (0.3 + 0.7 * number / FILES)).astype(np.uint8))
    frames = open_clip(SAMPLE["driving_video"]).read(range(2 + number % 9))
    with VideoWriter(video, 10) as writer:
        for frame in frames:
            writer.write(frame)
    return picture, video


def damage(path: Path, draw: random.Random) -> None:
    """Make a file one that can't be read: cut short, of another kind, or huge and empty."""
    content = bytearray(path.read_bytes())
    kind = draw.randrange(3)
    if kind == 0:
        path.write_bytes(content[: draw.randrange(1, len(content) // 3)])
    elif kind == 1:
        path.write_bytes(draw.randbytes(len(content)))
    else:
        with path.open("wb") as file:
            file.truncate(300 * 2**20)


def animate(client: Client, picture: Path, video: Path) -> str:
    """What became of a pair: "right", "wrong", or the message."""
    try:
        result = client.predict(
            source_image=handle_file(picture),
            driving_video=handle_file(video),
            api_name="/animate",
        )[2]
    except AppError as error:
        return f"told: {error}"
    clip = open_clip(result)
    brightness = [frame.mean() for frame in (next(iter(clip)), read_image(picture))]
    right = len(clip) == int(video.stem) % 9 + 2 and abs(brightness[0] - brightness[1]) < 4
    return "right" if right else "wrong"


def load(folder: Path) -> None:
    draw = random.Random(0)
    pairs = [write_pair(folder, number) for number in range(FILES)]
    broken = set(draw.sample(range(FILES), BROKEN))
    for number in broken:
        damage(draw.choice(pairs[number]), draw)
    with served(*KEEP) as (address, _, process), ThreadPoolExecutor(PEOPLE) as pool:

        def person(first: int) -> dict[int, str]:
            client = Client(address, verbose=False)
            return {number: animate(client, *pairs[number]) for number in range(first, FILES, PEOPLE)}

        started = time.monotonic()
        outcomes = {number: text for part in pool.map(person, range(PEOPLE)) for number, text in part.items()}
        print(
            f"{FILES} pairs in {time.monotonic() - started:.0f} s, {memory_mib(process):.0f} MiB in the end"
        )
        print("good:", Counter(text for number, text in outcomes.items() if number not in broken))
        print("broken:", Counter(text.split(":")[0] for number, text in outcomes.items() if number in broken))
        files = next(Path(tempfile.gettempdir()).glob("first-order-model-*/files"))
        waited = 2 * SECONDS_KEPT + 5
        time.sleep(waited)
        left = [path for path in files.rglob("*.*") if path.is_file()]
        print(f"{len(left)} files are left {waited} s later: {sorted(path.name for path in left)[:10]}")


# ---- Live ----------------------------------------------------------------------


def live(seconds: float, camera: Path) -> None:
    from playwright.sync_api import sync_playwright  # only needed here

    with served(*KEEP) as (address, _, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=browser_arguments(camera))
        page = browser.new_context(permissions=["camera"]).new_page()
        page.goto(address)
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start camera").click()
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            page.wait_for_timeout(min(10_000, 1000 * seconds))
            data = page.locator(".live").evaluate("node => ({...node.dataset})")
            figures = [float(data.get(name, "nan")) for name in ("rate", "latency", "age")]
            print(
                f"{time.monotonic() - started:4.0f} s: {figures[0]:.1f} frames/s, {figures[1]:.0f} ms, "
                f"at most {figures[2]:.0f} ms, {data.get('shown')} shown, {data.get('dropped')} dropped, "
                f"{memory_mib(process):.0f} MiB",
                flush=True,
            )
        browser.close()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "live"])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--camera", type=Path, help="a .y4m that is shown as if filmed")
    options = parser.parse_args(argv)
    if options.what == "live":
        live(options.seconds, options.camera)
        return
    with tempfile.TemporaryDirectory() as folder:
        load(Path(folder))


if __name__ == "__main__":
    main()
