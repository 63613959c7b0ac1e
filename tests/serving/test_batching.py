"""Concurrent requests go to the model together, and each gets its own part of the answer."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pytest

from pipeline.models.prediction import Guess
from pipeline.serving import batching
from pipeline.serving.served import Served


def test_requests_that_wait_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()

    def classify(_: object, pixels: Any, top: int) -> list[tuple[Guess, ...]]:
        sizes.append(len(pixels))
        return [tuple(Guess(str(one.item()), 1 / top) for _ in range(top)) for one in pixels]

    monkeypatch.setattr(batching, "classify", classify)
    served = cast(Served, type("Served", (), {"model": None})())

    async def ask() -> list[list[tuple[Guess, ...]]]:
        batches = batching.Batches()
        requests = [
            asyncio.create_task(
                batches.classify(served, np.full((1 + n % 3, 1, 1, 1), n, np.uint8), 1 + n % 2)
            )
            for n in range(12)
        ]
        await asyncio.sleep(0)  # all of them wait
        requests[4].cancel()
        running = asyncio.create_task(batches.run())
        del requests[4]
        answers = await asyncio.wait_for(asyncio.gather(*requests), 20)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return answers

    answers = asyncio.run(ask())
    assert sizes == [24]
    for n, answer in zip([n for n in range(12) if n != 4], answers, strict=True):
        assert [[guess.name for guess in one] for one in answer] == [[str(n)] * (1 + n % 2)] * (
            1 + n % 3
        )
