"""The page and its HTTP interface. docs/serving.md describes them."""
import asyncio
import hmac
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.deployment.prediction import Prediction
from src.errors import UserError
from src.model_utils.config import Config
from src.names import escape_name
from src.serving.batching import Batcher
from src.serving.classifier import Answer, Classifier
from src.serving.page_files import SERVED, read_page
from src.serving.uploads import receive_image

OWN_NAMES = {"localhost", "127.0.0.1", "::1"}
COME_AGAIN = {"Retry-After": "1"}  # seconds
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Result = TypeVar("Result")


class Service:
    """What the requests share.

    Args:
        classifier: the model.
        config: has the limits.
        folder: for uploads, each of which is removed with its answer.
        workers: threads that decode images.
        token: what clients must know; empty for nothing.
    """

    def __init__(self, classifier: Classifier, config: Config, folder: Path, workers: int, token: str) -> None:
        self._classifier, self._config, self._folder, self._token = classifier, config, folder, token
        self._decoders = ThreadPoolExecutor(workers)
        self._batcher = Batcher(classifier.classify, classifier.batch_size)
        self._at_work = 0
        self.is_stopping = False

    def app(self) -> ASGIApp:
        """The web application."""
        files = [Route(path, _file(content, kind)) for path, (content, kind) in read_page(SERVED).items()]
        return Starlette(
            routes=[*files, Route("/healthz", self._health), Route("/model.json", self._describe),
                    Route("/predict", self._predict, methods=["POST"])],
            middleware=[Middleware(_Guard, service=self, any_name=bool(self._token))],
            exception_handlers={HTTPException: _tell, ClientDisconnect: _say_nothing, Exception: _tell_fault})

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "requests": self._at_work})

    async def _describe(self, request: Request) -> Response:
        self._check_token(request)
        return JSONResponse(self._classifier.describe())

    async def _predict(self, request: Request) -> Response:
        self._check_token(request)
        if self._at_work >= self._config.queue_length:
            raise HTTPException(503, f"{self._at_work} requests are at work already; come again later", COME_AGAIN)
        self._at_work += 1
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                path = Path(folder) / "image"
                await receive_image(request, path, self._config.upload_mb, self._config.request_seconds)
                return JSONResponse(await self._in_time(self._answer(path)))
        finally:
            self._at_work -= 1

    async def _in_time(self, answer: Coroutine[Any, Any, Result]) -> Result:
        seconds = self._config.request_seconds
        try:
            return await asyncio.wait_for(answer, seconds)
        except asyncio.TimeoutError:
            raise HTTPException(503, f"no answer within {seconds:g} seconds; come again later", COME_AGAIN) from None

    async def _answer(self, path: Path) -> dict[str, Any]:
        """The JSON for an image. Times are in milliseconds, and include those of waiting."""
        begin = time.perf_counter()
        try:
            image = await asyncio.get_running_loop().run_in_executor(self._decoders, self._classifier.prepare, path)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        decoded = time.perf_counter()
        answer = await self._batcher.classify(image)
        times = {"decode": decoded - begin, "network": time.perf_counter() - decoded}
        return _as_json(self._classifier.likeliest(answer), answer, times)

    def _check_token(self, request: Request) -> None:
        if not self._token:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise HTTPException(401, "this address needs the token that was printed when the server was started",
                                {"WWW-Authenticate": "Bearer"})


class _Guard:
    """Refuses what other web pages send, and sets the headers of all answers.

    A page of another site may send requests to this machine from the browser of its user. Such a request names that
    site as its origin; or, if the site has given its own name this machine's address, as the host.
    """

    def __init__(self, app: ASGIApp, service: Service, any_name: bool) -> None:
        self._app, self._service, self._any_name = app, service, any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if self._service.is_stopping:
                    headers["Connection"] = "close"
            await send(message)

        fault = self._fault(Headers(scope=scope))
        if fault:
            await JSONResponse({"error": fault}, 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _fault(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._any_name and _host_name(host) not in OWN_NAMES:
            return "this server answers to localhost and 127.0.0.1 alone"
        if origin is not None and origin.partition("://")[2] != host:
            return "this server answers to no other web page"
        return ""


def _host_name(host: str) -> str:
    """A host without its port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _file(content: bytes, kind: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """A route that gives a file of the page."""
    async def give(_request: Request) -> Response:
        return Response(content, media_type=kind)
    return give


def _as_json(prediction: Prediction, answer: Answer, seconds: dict[str, float]) -> dict[str, Any]:
    activation = answer.activation_map
    return {
        "classes": [{"class": escape_name(name), "probability": round(probability, 6)}
                    for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)],
        "unsure": prediction.unsure,
        "activation_map": None if activation is None else [[round(value, 4) for value in row]
                                                           for row in activation.tolist()],
        "milliseconds": {name: round(1000 * value, 1) for name, value in seconds.items()},
    }


async def _tell(_request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    return JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)


async def _say_nothing(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client has gone


async def _tell_fault(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error) if isinstance(error, UserError) else "a fault of the server"}, 500)
