"""Options that several programs have, for argparse. It imports nothing heavy."""

from __future__ import annotations

import argparse

MAX_SEED = 2**63 - 1
PRECISIONS = ("fp32", "bf16", "fp16")
ENGINES = ("torch", "onnxruntime", "openvino")


def seed_number(text: str) -> int:
    """A seed that every generator of random numbers takes."""
    try:
        number = int(text) if len(text) <= 20 else -1
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to {MAX_SEED}")
    return number
