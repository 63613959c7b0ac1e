"""Compute the images of concurrent requests together: a model is faster on many than on one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.models.prediction import Guess, classify
from pipeline.serving.served import Served

MAX_TOGETHER = 256  # images; more take no less time each


class Waiting(NamedTuple):
    """A request's images `[N, H, W, C]`, read for the model that is to classify them."""

    served: Served
    pixels: NDArray[np.uint8]
    top: int
    answer: "asyncio.Future[list[tuple[Guess, ...]]]"


class Batches:
    """Classifies images: while the model computes, requests wait, and then go in together."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, "model")

    async def classify(
        self, served: Served, pixels: NDArray[np.uint8], top: int
    ) -> list[tuple[Guess, ...]]:
        """Return the `top` most probable classes of each image."""
        answer: asyncio.Future[list[tuple[Guess, ...]]] = asyncio.Future()
        self.waiting.put_nowait(Waiting(served, pixels, top, answer))
        return await answer

    async def run(self) -> None:
        """Classify what waits, until cancelled."""
        while True:
            batch = [await self.waiting.get()]
            while not self.waiting.empty() and sum(len(b.pixels) for b in batch) < MAX_TOGETHER:
                batch.append(self.waiting.get_nowait())
            # Several models at once only where an alias has just moved.
            for _, same in groupby(batch, key=lambda one: id(one.served)):
                await self._answer(list(same))

    async def _answer(self, batch: list[Waiting]) -> None:
        model = batch[0].served.model
        pixels = np.concatenate([one.pixels for one in batch])
        top = max(one.top for one in batch)
        loop = asyncio.get_running_loop()
        try:
            guesses = await loop.run_in_executor(self.thread, classify, model, pixels, top)
        except Exception as error:  # such as out of memory: this batch fails, not the server
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        start = 0
        for one in batch:
            end = start + len(one.pixels)
            if not one.answer.done():  # its request may have been cancelled
                one.answer.set_result([guess[: one.top] for guess in guesses[start:end]])
            start = end
