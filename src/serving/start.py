"""Starts the page: looks whether all is there, listens, and opens the model."""
import ipaddress
import secrets
import socket
import tempfile
from pathlib import Path

from src.deployment.engines import is_installed
from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config
from src.names import escape_name
from src.serving.classifier import open_classifier

PACKAGES = ("starlette", "uvicorn", "python_multipart")
BACKLOG = 1024  # connections that wait to be accepted
TOKEN_BYTES = 24


def serve(config: Config) -> None:
    """Serve the page until SIGINT or SIGTERM. The requests at work are answered before the end.

    Raises:
        UserError: a package is missing; the model cannot be read; the address cannot be used.
    """
    if missing := [package for package in PACKAGES if not is_installed(package)]:
        raise UserError(f"--serve True needs packages that are not installed ({', '.join(missing)}): "
                        "pip install -r requirements-serve.txt")
    from src.serving.server import run
    with _listen(config.host, config.port) as listener, tempfile.TemporaryDirectory() as folder:
        classifier = open_classifier(config, Path(folder))
        token = "" if _is_own(listener) else secrets.token_urlsafe(TOKEN_BYTES)
        logger.info(f"serving {escape_name(config.pretrain_ckpt)}, {len(classifier.classes)} classes: "
                    f"{_url(listener, token)} (Ctrl-C stops)")
        run(classifier, config, Path(folder), listener, token)
    logger.info("stopped: every request was answered")


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserError(f"{host}, port {port}: cannot listen there ({error.strerror or error}); choose others with "
                        "--host and --port") from error


def _is_own(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _url(listener: socket.socket, token: str) -> str:
    """The address of the page. Browsers do not send what follows the #, so no log on the way has the token."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/{f'#token={token}' if token else ''}"
