"""Where and in which precision a run computes."""

import torch

from pipeline.errors import InputError


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`. InputError where CUDA is asked for in vain."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but no CUDA device can be used here; use cpu or auto")
    return torch.device(name)


def compute_exactly() -> None:
    """Have CUDA's convolutions compute fp32 as such, instead of as TF32, and repeatably."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


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
