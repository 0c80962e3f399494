"""Tells what a file is from its first bytes, for errors about one that is not what it should be."""
import codecs
import zipfile
from pathlib import Path

BEGINNING = 512  # bytes that tell the kind of a file
ONNX, MINDIR, TFLITE = "an ONNX file", "a MINDIR file", "a TFLite file"
NCNN, LITE = "ncnn's list of layers", "a MindSpore Lite file"
NCNN_BEGINNING = b"7767517"
BEGINNINGS = {
    NCNN_BEGINNING: NCNN, b"\x80": "a pickle, as PyTorch wrote before 1.6", b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "compressed by gzip", b"PK": "a zip archive, as PyTorch writes", b"\x89PNG": "a PNG image",
    b"\xff\xd8": "a JPEG image", b"%PDF": "a PDF", b"<!DOCTYPE": "a web page", b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
}


def file_kind(path: Path) -> str:
    """What a file is, with its article; empty if that is not known.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
        size = file.seek(0, 2)
    if zipfile.is_zipfile(path):
        return _kind_of_archive(path)
    length = int.from_bytes(beginning[:8], "little")  # of the JSON of a safetensors file
    tests = (
        (beginning[4:8] == b"TFL3", TFLITE),
        (beginning[4:8] == b"MSL2", LITE),
        # The version, then the next field, or who wrote it.
        (beginning[:1] == b"\x08" and beginning[2:3] in {b"\x12", b"\x3a", b"\x42"}, ONNX),
        (beginning[:1] == b"\x0a" and b"MindSpore" in beginning[:32], MINDIR),
        (beginning[8:9] == b"{" and length < size, "a safetensors file"),
        *((beginning.startswith(signature), kind) for signature, kind in BEGINNINGS.items()),
        (beginning != b"" and is_text(beginning), "a text"),
    )
    return next((kind for matches, kind in tests if matches), "")


def is_text(beginning: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8, the last letter of which may be cut, and printable."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            encrypted = any(entry.flag_bits & 1 for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError):
        return "a damaged zip archive"
    return "an encrypted zip archive" if encrypted else BEGINNINGS[b"PK"]
