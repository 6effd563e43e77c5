"""Read files of weights that can come from strangers; every failure is a `CheckpointError`.

PyTorch's `weights_only=True` keeps a file from running code; what is here keeps it from filling the memory
and from giving results of rubbish.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.errors import CheckpointError, one_line
from utils.files import regular_file

MAX_TABLE_BYTES = 2**26  # the names and shapes in a file, without the numbers
# int64 counts the batches that a batch norm has seen.
WEIGHT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
DAMAGED = "damaged, or not a checkpoint"

# ---- Files -------------------------------------------------------------------

# Of the two formats of `torch.save`: a zip archive, and before PyTorch 1.6 a row of pickles, the first of
# which is this number.
_ZIP, _LEGACY = b"PK\x03\x04", b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# How other files begin that people take for a checkpoint.
_OTHER_KINDS = {
    b"version https://git-lfs": "the pointer of git-lfs to a large file; get the file with: git lfs pull",
    b"<": "a web page; download the file again, by the link of the file itself",
    b"\x1f\x8b": "a packed archive; unpack it and give the file that it holds",
    b"\x80": "a pickle that PyTorch did not write, which could run any program; it isn't read",
}


def is_safetensors(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".safetensors"


def read_weights(path: str | Path) -> Any:
    """Read what `torch.save` wrote to a file, or the tensors of a `.safetensors` file by name; on the CPU."""
    check_file(path)
    try:
        if is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch finds odd is refused, or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch.load raises whatever the damage brings about
        raise _load_failure(path, error) from error


def check_file(path: str | Path) -> None:
    """Raise `CheckpointError` unless the file is what its name says, and no larger than it looks."""
    path = regular_file(path, CheckpointError)
    with path.open("rb") as file:
        head = file.read(64)
    if is_safetensors(path) and head[8:9] == b"{":
        # It begins with the length of its table, which is JSON. Its reader checks the rest.
        if int.from_bytes(head[:8], "little") > MAX_TABLE_BYTES:
            raise CheckpointError(f"{path}: {DAMAGED}: its table of names is too large")
    elif is_safetensors(path) or not (head.startswith(_ZIP) or (head[:1] == b"\x80" and _LEGACY in head)):
        raise CheckpointError(f"{path}: {DAMAGED}: it is {_kind_of(head)}")
    elif head.startswith(_ZIP):
        _check_archive(path)


def _kind_of(head: bytes) -> str:
    if not head:
        return "empty; download or copy it again"
    if head[8:10] == b'{"':
        return "a file of safetensors; rename it so that it ends in .safetensors"
    if head.startswith(_ZIP) or _LEGACY in head:
        return "a file of PyTorch; rename it so that it ends in .pth.tar"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = [kind for beginning, kind in _OTHER_KINDS.items() if start.startswith(beginning)]
    return [*kinds, "of no kind that is known here; download or copy it again"][0]


def _check_archive(path: Path) -> None:
    # `torch.save` stores without packing. A packed file can be a thousand times larger than it looks.
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: {DAMAGED}: its end is missing or overwritten ({one_line(error)}); "
            "download or copy it again"
        ) from error
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(
            f"{path}: {DAMAGED}: it unpacks to more than it holds; don't unpack "
            "and pack a .pth.tar, download or copy it again"
        )
    pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > MAX_TABLE_BYTES:
        raise CheckpointError(f"{path}: {DAMAGED}: it is an archive of other things")


def _load_failure(path: str | Path, error: Exception) -> CheckpointError:
    """Say in other words what `torch.load` raised, which advises to load the file unsafely."""
    text = str(error)
    unsafe = re.search(r"GLOBAL ([\w.]+)", text)
    if unsafe:
        reason = f"it holds {unsafe[1]}, which could run a program; ask for a file of tensors and numbers"
    elif "weights_only" in text or not text:
        reason = f"it holds more than tensors and plain values ({type(error).__name__})"
    else:
        reason = one_line(text.splitlines()[0])
    return CheckpointError(f"{path}: {DAMAGED} (don't unpack a .pth.tar): {reason}")


# ---- Tensors -----------------------------------------------------------------


def require(holds: bool, what: str, wanted: str) -> None:
    """Raise `CheckpointError` saying that `what`, which begins with the path, is not what is `wanted`."""
    if not holds:
        raise CheckpointError(f"{what} is not {wanted}; the file is damaged, or not from this project")


def check_tensor(tensor: Any, what: str) -> None:
    """Raise `CheckpointError` unless this is an ordinary tensor on the CPU, whole, of finite numbers."""
    require(isinstance(tensor, Tensor), what, f"a tensor but {type(tensor).__name__}")
    ordinary = (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.device.type == "cpu"
        and tensor.dtype in WEIGHT_TYPES
    )
    require(ordinary, what, "an ordinary tensor (it may be sparse, nested, quantised, or without numbers)")
    nbytes = tensor.numel() * tensor.element_size()
    require(nbytes <= tensor.untyped_storage().nbytes(), what, "stored whole")
    # A sum is finite only if every term is, and needs no memory. A sum can also overflow.
    finite = bool(tensor.detach().sum().isfinite()) or bool(tensor.detach().isfinite().all())
    require(finite, what, "finite: it holds inf or NaN")
