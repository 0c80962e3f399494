"""The JSON beside an exported network, which says how to use it: `mobilenetv2.onnx.json` for `mobilenetv2.onnx`."""
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.confidence import Confidence
from src.data.framing import Framing
from src.deployment.formats import files_of
from src.errors import UserError
from src.files import file_digest
from src.json_records import make_record, read_json

ANY_SIZE = "any"  # of batches
CHANNELS = 3
# The keys of a `Preprocessing`, as an ONNX file has them.
NUMBERS, TEXTS = ("centre_crop", "mean", "std", "crop_pct"), ("normalise", "crop_mode", "interpolation", "tta")
LARGEST_BATCH, LARGEST_SIDE = 2 ** 16, 2 ** 13  # images, pixels: larger values mean that the file is damaged


@dataclass(frozen=True)
class Input:
    """The input."""

    batch_size: int | str | None = None  # ANY_SIZE, or the batch size; None: unknown

    def __post_init__(self) -> None:
        if self.batch_size not in {None, ANY_SIZE} and not (
                isinstance(self.batch_size, int) and 1 <= self.batch_size <= LARGEST_BATCH):
            raise ValueError(f"batch_size must be 1 to {LARGEST_BATCH}, or {ANY_SIZE!r}")


@dataclass(frozen=True)
class Output:
    """The output."""

    meaning: str = "logits"
    confidence: Confidence | None = None  # how to make probabilities of logits; None: unknown


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for the input."""

    centre_crop: int | None = None  # pixels; None: unknown
    normalise: str = ""
    mean: tuple[float, ...] | None = None  # for pixels of 0 to 255; None: as for ImageNet
    std: tuple[float, ...] | None = None
    # Files of earlier versions have neither of these, or what the defaults are.
    crop_mode: str = Framing.crop_mode
    crop_pct: float = Framing.crop_pct
    interpolation: str = Framing.interpolation
    tta: str = Framing.tta

    @property
    def framing(self) -> Framing:
        """How an image becomes the input."""
        return Framing(self.crop_mode, self.crop_pct, self.interpolation, self.tta)

    def __post_init__(self) -> None:
        if self.centre_crop is not None and not 1 <= self.centre_crop <= LARGEST_SIDE:
            raise ValueError(f"centre_crop must be 1 to {LARGEST_SIDE}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and (len(values) != CHANNELS or not all(map(math.isfinite, values))):
                raise ValueError(f"{name} must be {CHANNELS} numbers")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError("std must be more than 0")
        _ = self.framing  # whose values are checked when it is made


@dataclass(frozen=True)
class Description:
    """The keys of the JSON that this project reads."""

    sha256: str = ""
    input: Input = field(default_factory=Input)
    output: Output = field(default_factory=Output)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: tuple[str, ...] | None = None


def description_path(model: Path) -> Path:
    """The path of the JSON of an exported network."""
    return model.with_name(f"{model.name}.json")


def read_description(model: Path) -> Description | None:
    """The JSON beside an exported network; None if there is none.

    Raises:
        UserError: it cannot be read, or does not describe an exported network.
    """
    path = description_path(model)
    if not path.is_file():
        return None
    return make_record(Description, read_json(path), f"{path}: not the description of an exported network")


def content_digest(model: Path) -> str:
    """SHA-256 of an exported network; of several files, that of their digests, a line each."""
    digests = [file_digest(file) for file in files_of(model)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def pack_metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """What an ONNX file has of a description: preprocessing, output, confidence and classes, a text for each key."""
    values = {**description["preprocessing"], "output": description["output"]["meaning"],
              "confidence": description["output"].get("confidence"), "classes": description["classes"]}
    return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in values.items() if value is not None}


def unpack_metadata(texts: Mapping[str, str], where: object) -> Description:
    """The description that `pack_metadata` put into an ONNX file.

    Raises:
        UserError: `where` has something else under its keys.
    """
    fault = f"{where}: its metadata are not those of a network that this project exported"
    try:
        numbers = {key: json.loads(texts[key]) for key in (*NUMBERS, "confidence", "classes") if key in texts}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{fault} ({error})") from error
    found = {"output": {"meaning": texts.get("output", Output.meaning), "confidence": numbers.get("confidence")},
             "preprocessing": {key: numbers[key] if key in NUMBERS else texts[key]
                               for key in (*NUMBERS, *TEXTS) if key in texts},
             "classes": numbers.get("classes")}
    return make_record(Description, found, fault)
