"""A training step as a CUDA graph.

A small network's kernels are so short that launching them takes longer than running them. A
graph launches all of a step at once (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Maps a batch's images and labels to its mean loss, and to whether each prediction is correct (bool
# `[B]`), both on the device.
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Steps that are first launched kernel by kernel, so that libraries choose and allocate what they
# need on the capture stream; that must not happen in a graph.
WARM_UP_STEPS = 3


class CapturedStep:
    """A step that is captured the fourth time it is taken, and replayed from then on.

    step: maps images `[N, C, H, W]` and labels `[N]`, on the GPU, to two tensors. It must not
    read from the GPU, and its optimiser must be `capturable`. Each call takes one step, with the
    same result as `step`; the next call overwrites what it returns. Batches of a size other than
    `batch_size`, such as an epoch's last one, are not captured. If capturing fails, or if a step
    changes what `held_by_python` returns, which a graph would not, all steps are taken as they
    are; `path` says why.
    """

    def __init__(self, step: Step, batch_size: int, held_by_python: Callable[[], bytes]) -> None:
        self.step = step
        self.batch_size = batch_size
        self.held_by_python = held_by_python
        self.held = b""
        self.failure = ""  # why it can't be captured
        self.taken = 0
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph = torch.cuda.CUDAGraph()

    @property
    def path(self) -> str:
        """How steps are computed, in words."""
        if self.failure:
            return f"none: a CUDA graph can't capture the step ({self.failure})"
        return "CUDA graph"

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step."""
        if self.failure or len(labels) != self.batch_size:
            return self.step(images, labels)
        self.taken += 1
        if self.taken <= WARM_UP_STEPS:
            results = self._warm_up(images, labels)
            self.held = self.held if self.taken > 1 else self.held_by_python()
            return results
        if self.taken == WARM_UP_STEPS + 1:
            if self.held_by_python() != self.held:
                self.failure = "it changes what Python holds: numbers, tensors or random generators"
                return self.step(images, labels)
            self.images, self.labels = images.clone(), labels.clone()
            try:
                # This only records the step.
                with torch.cuda.graph(self.graph, stream=self.stream):
                    self.results = self.step(self.images, self.labels)
            except (RuntimeError, AssertionError) as error:  # a network that waits for the GPU
                self.failure = str(error).splitlines()[0] or type(error).__name__
                return self.step(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.results

    def _warm_up(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step on the capture stream, which must not be the default one."""
        default = torch.cuda.current_stream()
        self.stream.wait_stream(default)
        with torch.cuda.stream(self.stream):
            results = self.step(images, labels)
        default.wait_stream(self.stream)
        return results
