"""The server of a ModelArts inference image: python modelarts_server.py PACKAGE. It prints its port.

It serves POST / as the platform does: a form becomes {field: {file name: file}}, JSON what it says; the answer is JSON.
"""
import importlib
import io
import json
import sys
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

STAND_INS = Path(__file__).parent / "stand_ins"


def load_service(model: Path) -> Any:
    """The service of a folder model/: the class in customize_service.py that is one of the parent's children."""
    sys.path[:0] = [str(model), str(STAND_INS)]
    module = importlib.import_module("customize_service")
    parent = module.SingleNodeService
    child, = (found for found in vars(module).values()
              if isinstance(found, type) and issubclass(found, parent) and found is not parent)
    return child("model", str(model))


class Handler(BaseHTTPRequestHandler):
    """One request."""

    service: Any

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        data = json.loads(body) if kind == "application/json" else _form(kind, body)
        answer = json.dumps(self.service.inference(data)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def _form(kind: str, body: bytes) -> dict[str, dict[str, io.BytesIO]]:
    form: dict[str, dict[str, io.BytesIO]] = {}
    message: Any = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    for part in message.iter_parts():
        field = part.get_param("name", header="content-disposition")
        form.setdefault(field, {})[part.get_filename()] = io.BytesIO(part.get_payload(decode=True))
    return form


if __name__ == "__main__":
    Handler.service = load_service(Path(sys.argv[1]) / "model")
    assert "mindspore" not in sys.modules
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
