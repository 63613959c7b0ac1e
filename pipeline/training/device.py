"""The device and precision of a run; exact arithmetic on CUDA, and memory kept between steps."""

import ctypes
import mmap
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import InputError

# glibc's names, from malloc.h, and the maximum it accepts for two of them.
M_TRIM_THRESHOLD, MAX_KEPT = -1, 2**31 - 1
M_TOP_PAD, USUAL_PAD = -2, 2**17
M_MMAP_THRESHOLD, LARGEST_KEPT = -3, 2**25
HEAP_BYTES = 2**30  # of addresses; only what is used takes memory


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `mps`; InputError if it can't be used."""
    if name == "auto":
        name = next(filter(_is_usable, ("cuda", "mps", "cpu")))
    if not _is_usable(name):
        kind = "CUDA device" if name == "cuda" else "GPU of a Mac (MPS)"
        raise InputError(f"device is {name}, but no {kind} can be used here; use cpu or auto")
    return torch.device(name)


def _is_usable(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    if name == "cpu" or not torch.backends.mps.is_available():
        return name == "cpu"
    try:  # a virtual machine may have it without any memory (actions/runner-images, issue 9918)
        torch.zeros(1, device="mps")
    except RuntimeError:
        return False
    return True


@contextmanager
def restoring_torch() -> Iterator[None]:
    """Leave a caller's number of threads, and what `set_up_torch` sets of torch, as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    threads = torch.get_num_threads()
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic = before
        torch.set_num_threads(threads)


def set_up_torch() -> None:
    """Make this process compute exactly, and fast; call it before training, in each process."""
    # CUDA computes fp32 as fp32, not TF32, and deterministically.
    torch.backends.cudnn.allow_tf32 = False
    # PyTorch's default, which NVIDIA's containers change; augmentation depends on the last bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors for the next ones, in huge pages.

    By default it returns large blocks to the system, which maps and clears them again at each step;
    that costs a fifth to a third of the speed. Pages of 4 kB cost another 3 to 8 %, and more where
    memory is slow (docs/LOG.md). Other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_KEPT)
        libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
        # A system uses huge pages where it is asked to, and the heap is known once it has grown.
        libc.mallopt(M_TOP_PAD, HEAP_BYTES)
        libc.free(ctypes.c_void_p(libc.malloc(LARGEST_KEPT // 2)))
        libc.mallopt(M_TOP_PAD, USUAL_PAD)
        heap = ctypes.c_void_p(libc.sbrk(0) - HEAP_BYTES)
        libc.madvise(heap, ctypes.c_size_t(HEAP_BYTES), mmap.MADV_HUGEPAGE)


def release_freed_memory() -> None:
    """Release what `set_up_torch` has kept; later code needs it in blocks of other sizes."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def choose_precision(name: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`; `auto` is bf16 if the hardware multiplies bf16 matrices.

    Otherwise bf16 is emulated and slower than fp32. Weights, optimiser, loss and validation are
    always fp32, and on MPS all is. Raises InputError for bf16 there.
    """
    if device.type == "mps":
        if name == "bf16":
            raise InputError("precision is bf16, which is not tried on mps; use fp32 or auto")
        return "fp32"
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        native = features.get("avx512_bf16") or features.get("amx_bf16")
    return "bf16" if native else "fp32"
