"""Where and in which precision a run computes."""

import ctypes
import platform

import torch

from pipeline.errors import InputError

# glibc's names, from malloc.h, and the most that it takes for each.
M_TRIM_THRESHOLD, MOST_KEPT = -1, 2**31 - 1
M_MMAP_THRESHOLD, LARGEST_KEPT = -3, 2**25


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`. InputError where CUDA is asked for in vain."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but no CUDA device can be used here; use cpu or auto")
    return torch.device(name)


def compute_exactly() -> None:
    """Have CUDA compute fp32 as such, instead of as TF32, and repeatably."""
    torch.backends.cudnn.allow_tf32 = False
    # PyTorch's default, which NVIDIA's containers change; augmentation depends on the last bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones.

    By default it returns large blocks to the system, which maps and clears them anew at every step,
    and takes a fifth to a third of the speed (docs/LOG.md). Other C libraries stay as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def release_freed_memory() -> None:
    """Return what `keep_freed_memory` has kept; what follows training needs it in other pieces."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def choose_precision(name: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`; `auto` is bf16 where the hardware multiplies bf16 matrices.

    Elsewhere bf16 is emulated, and slower than fp32. Weights, optimiser, loss and validation are
    fp32 either way.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        native = features.get("avx512_bf16") or features.get("amx_bf16")
    return "bf16" if native else "fp32"
