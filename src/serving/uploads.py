"""Receives one image: as the body of a request, or as a file in a form."""
import asyncio
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

MB = 10 ** 6
FORM, ANY_BYTES = "multipart/form-data", "application/octet-stream"
CHUNK = 2 ** 16  # bytes


async def receive_image(request: Request, path: Path, megabytes: float, seconds: float) -> None:
    """Write the image of a request to a file.

    Args:
        request: with the image as its body, or with a form that has one file.
        path: of the file.
        megabytes: a larger body is refused.
        seconds: a slower one is refused.

    Raises:
        HTTPException: 400, 408, 413, 415 or 422, with a line that says why.
    """
    kind = request.headers.get("content-type", ANY_BYTES).partition(";")[0].strip().lower()
    if kind not in {FORM, ANY_BYTES} and not kind.startswith("image/"):
        raise HTTPException(415, f"{kind} is no image; send an image with Content-Type image/jpeg (or another image "
                                 f"type), or a form with a file ({FORM})")
    if int(request.headers.get("content-length", 0)) > megabytes * MB:
        raise _too_large(megabytes)
    limited = Request(request.scope, _limit(request.receive, megabytes))
    write = _write_file_of_form if kind == FORM else _write_body
    try:
        await asyncio.wait_for(write(limited, path), seconds)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the upload took over {seconds:g} seconds; send a smaller image",
                            {"Connection": "close"}) from None


def _limit(receive: Receive, megabytes: float) -> Receive:
    """`receive` of a request that may have no length, or a wrong one."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > megabytes * MB:
            raise _too_large(megabytes)
        return message
    return counted


def _too_large(megabytes: float) -> HTTPException:
    return HTTPException(413, f"the upload has more than {megabytes:g} MB; send a smaller image")


async def _write_body(request: Request, path: Path) -> None:
    with path.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)


async def _write_file_of_form(request: Request, path: Path) -> None:
    async with request.form(max_files=1, max_fields=8) as form:
        uploads = [value for value in form.values() if isinstance(value, UploadFile)]
        if not uploads:
            raise HTTPException(422, "the form has no file; send the image as a file")
        with path.open("wb") as file:
            while chunk := await uploads[0].read(CHUNK):
                file.write(chunk)
