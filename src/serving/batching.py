"""Lets images that wait at the same time share a batch."""
import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src.serving.classifier import Answer


class Batcher:
    """Classifies single images in batches. No image waits for others: a batch is what has come while the last one ran.

    Args:
        classify: answers for N x 3 x H x W images. It is called by one thread.
        batch_size: most images of a batch.
    """

    def __init__(self, classify: Callable[[np.ndarray], list[Answer]], batch_size: int) -> None:
        self._classify, self._batch_size = classify, batch_size
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Answer]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def classify(self, image: np.ndarray) -> Answer:
        """The answer for one image, 3 x H x W float32.

        Raises:
            UserError: the network does not take it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._classify_all())
        return await answer

    async def _classify_all(self) -> None:
        """Classify until none waits."""
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            batch = [(image, answer) for image, answer in taken if not answer.done()]  # others have timed out
            if batch:
                await self._classify_batch(batch)

    async def _classify_batch(self, batch: list[tuple[np.ndarray, asyncio.Future[Answer]]]) -> None:
        images = np.stack([image for image, _ in batch])
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._classify, images)
        except Exception as error:  # each request tells its own client
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, found, strict=True):
            if not answer.done():
                answer.set_result(result)
