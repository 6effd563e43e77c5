"""Options that several programs have, and how all of them are read. It imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from utils.errors import one_line

DEBUG = "--debug"  # `utils.program` looks for it
MAX_SEED = 2**63 - 1
PRECISIONS = ("fp32", "bf16", "fp16")
ENGINES = ("torch", "onnxruntime", "openvino")


class OptionParser(argparse.ArgumentParser):
    """The parser of every program: its help keeps the lines of `description`, and errors are one line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument(
            DEBUG,
            action=_Nothing,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show the traceback of an error, too",
        )

    def error(self, message: str) -> NoReturn:
        """Print usage and error; a wrong value, which argparse repeats, can hold line breaks."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


class _Nothing(argparse.Action):
    """An option that leaves nothing in the namespace."""

    def __call__(self, *arguments: object) -> None:
        pass


def seed_number(text: str) -> int:
    """Parse a seed that every generator of random numbers takes."""
    try:
        number = int(text) if len(text) <= 20 else -1
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to {MAX_SEED}")
    return number
