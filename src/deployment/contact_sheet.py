"""Draws a contact sheet: the first predicted images with class and probability, and which are unsure."""
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from src.data.images import thumbnail
from src.deployment.prediction import Prediction
from src.files import atomic_write
from src.names import escape_name

COLUMNS, MOST = 8, 64  # images in a row, and on the sheet
SIDE, MARGIN, LINE = 140, 8, 16  # pixels
CAPTION_LETTERS = 20
PAPER, INK, WARNING = (255, 255, 255), (30, 30, 30), (190, 30, 30)


def draw_contact_sheet(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw up to `MOST` images, in their order, as a PNG; a bad image is an empty frame with its fault."""
    shown = predictions[:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    step = SIDE + MARGIN
    sheet = Image.new("RGB", (columns * step + MARGIN, rows * (step + 2 * LINE) + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, prediction in enumerate(shown):
        left, top = MARGIN + number % columns * step, MARGIN + number // columns * (step + 2 * LINE)
        if prediction.fault:
            draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=WARNING)
            lines = (escape_name(prediction.path.name), prediction.fault)
        else:
            image = _thumbnail(prediction.path)
            sheet.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
            lines = (escape_name(prediction.classes[0]),
                     f"{prediction.probabilities[0]:.1%}{', unsure' if prediction.unsure else ''}")
        for i, line in enumerate(lines):
            draw.text((left, top + SIDE + 2 + i * LINE), line[:CAPTION_LETTERS], WARNING if prediction.fault else INK,
                      font)
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")


def _thumbnail(path: Path) -> Image.Image:
    """A small version of an image; a grey one if Pillow cannot read the image."""
    try:
        return thumbnail(path, SIDE)
    except Exception:  # decoders raise many types of error
        return Image.new("RGB", (SIDE, SIDE), "lightgrey")
