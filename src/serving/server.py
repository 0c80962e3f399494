"""The web server around the application, and how it stops."""
import asyncio
import os
import signal
import socket
from pathlib import Path

import uvicorn

from src.deployment.prediction import decoding_workers
from src.model_utils.config import Config
from src.serving.app import Service
from src.serving.classifier import Classifier

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds from a signal until connections without a request are closed: what was sent before the signal is answered.
LEAVING_SECONDS = 0.5
IDLE_CONNECTIONS = 500  # besides those of requests at work


class _Server(uvicorn.Server):
    """Ends after the requests at work."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has been sent, and close each connection with its next answer; then all."""
        self._service.is_stopping = True
        await asyncio.sleep(LEAVING_SECONDS)
        await super().shutdown(sockets)


def run(classifier: Classifier, config: Config, folder: Path, listener: socket.socket, token: str) -> None:
    """Answer requests until SIGINT or SIGTERM; a second SIGINT ends at once.

    Args:
        classifier: the model.
        config: has the limits.
        folder: for uploads.
        listener: a listening socket.
        token: what clients must know; empty for nothing.
    """
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, decoding_workers(config.num_workers, config.onnx_threads))
    service = Service(classifier, config, folder, workers, token)
    # The server's own log would have a line for each request, and bad ones could fill a disk. A request takes twice
    # `request_seconds` at most, for its upload and for its answer.
    settings = uvicorn.Config(service.app(), http="h11", ws="none", lifespan="off", log_config=None, log_level="error",
                              access_log=False, server_header=False,
                              limit_concurrency=config.queue_length + IDLE_CONNECTIONS,
                              timeout_graceful_shutdown=int(2 * config.request_seconds) + 1)
    # At its end uvicorn sends itself the signal that stopped it, for whoever had a handler before.
    previous = {number: signal.signal(number, lambda _number, _frame: None) for number in SIGNALS}
    try:
        _Server(settings, service).run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
