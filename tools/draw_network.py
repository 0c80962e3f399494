"""The figure of the network in the README, drawn from src/mobilenetV2.py.

    python tools/draw_network.py --output docs/network.svg

Above: the feature maps of Table 2 of the paper (https://arxiv.org/abs/1801.04381), height for resolution, thickness for
channels, both as square roots. Below: the inverted residual of section 3.3, with and without shortcut.
"""
import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.files import atomic_write
from src.mobilenetV2 import INVERTED_RESIDUALS, LAST_CHANNELS, STEM_CHANNELS

IMAGE_SIZE, CLASSES = 224, 1000  # as in the paper's table
WIDTH, HEIGHT = 1200, 690
LABELS, COLUMN = 84, 100  # pixels: of the row names, of each stage
FLOOR, TABLE = 236, 266  # y of the feature maps' feet, and of the table's first row
BLOCK_TOP = 470
INK, FAINT, LINE = "#1f2933", "#616e7c", "#cbd2d9"
MAP_COLOURS = {224: "#9aa5b1", 112: "#6c8ebf", 56: "#4f86c6", 28: "#2f9e8f", 14: "#e09f3e", 7: "#c8553d", 1: "#7b5ea7"}
EXPAND, DEPTHWISE, PROJECT = "#dbe7f5", "#d6efe9", "#fbe9cf"


@dataclass
class Stage:
    """A row of Table 2: its name, t, c, n, s as text, and the side and channels of what it gives."""

    name: Sequence[str]
    expansion: str
    repetitions: str
    stride: str
    size: int
    channels: int


def main(argv: Sequence[str] | None = None) -> None:
    """Draw as the command line says."""
    parser = argparse.ArgumentParser(description="The network as an SVG figure.")
    parser.add_argument("--output", required=True, type=Path, help="SVG file to write")
    options = parser.parse_args(argv)
    with atomic_write(options.output) as temporary:
        temporary.write_text(figure(), encoding="utf-8")
    print(options.output)


def stages() -> list[Stage]:
    """Table 2 at width 1.0, from the image to the classes."""
    size = IMAGE_SIZE // 2
    found = [Stage(("image",), "", "", "", IMAGE_SIZE, 3), Stage(("conv 3×3",), "", "1", "2", size, STEM_CHANNELS)]
    for expansion, channels, repetitions, stride in INVERTED_RESIDUALS:
        size //= stride
        found.append(Stage(("inverted", "residual"), str(expansion), str(repetitions), str(stride), size, channels))
    return [*found, Stage(("conv 1×1",), "", "1", "1", size, LAST_CHANNELS),
            Stage(("mean pool,", "classifier"), "", "1", "", 1, CLASSES)]


def figure() -> str:
    """The whole figure as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>MobileNetV2: stages and inverted residual</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{FAINT}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>',
        text(24, 36, f"MobileNetV2 1.0 at {IMAGE_SIZE}×{IMAGE_SIZE}", size=19, anchor="start", weight="bold"),
    ]
    parts += [part for number, stage in enumerate(stages()) for part in draw_stage(number, stage)]
    parts += draw_row_names()
    parts.append(text(24, BLOCK_TOP - 26, "Inverted residual", size=19, anchor="start", weight="bold"))
    parts += draw_block(24, "stride s = 1, as many channels out as in", shortcut=True)
    parts += draw_block(WIDTH / 2 + 12, "stride s = 2, or other channels out: no shortcut", shortcut=False)
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_stage(number: int, stage: Stage) -> list[str]:
    """A feature map over its column of the table."""
    middle = LABELS + (number + 0.5) * COLUMN
    height, thickness = 9.2 * math.sqrt(stage.size), max(4.0, 1.35 * math.sqrt(stage.channels))
    lean, rise = 0.26 * height, 0.16 * height
    left, top = middle - (thickness + lean) / 2, FLOOR - height
    colour = MAP_COLOURS[stage.size]
    right = left + thickness
    faces = (
        (((left, top), (right, top), (right, FLOOR), (left, FLOOR)), 1.0),
        (((left, top), (left + lean, top - rise), (right + lean, top - rise), (right, top)), 0.55),
        (((right, top), (right + lean, top - rise), (right + lean, FLOOR - rise), (right, FLOOR)), 0.75),
    )
    parts = [polygon(corners, colour, opacity) for corners, opacity in faces]
    lines = ["", *stage.name][-2:] if len(stage.name) == 1 else stage.name
    parts += [text(middle, TABLE + 14 * line, name, size=13) for line, name in enumerate(lines)]
    shape = f"{stage.size}²×{stage.channels}" if stage.size > 1 else str(stage.channels)
    cells = (stage.expansion, str(stage.channels), stage.repetitions, stage.stride, shape)
    parts += [text(middle, TABLE + 42 + 25 * row, cell, weight="bold" if row == len(cells) - 1 else "normal")
              for row, cell in enumerate(cells)]
    return parts


def draw_row_names() -> list[str]:
    """Names and lines of the table's rows."""
    names = ("t expand", "c channels", "n repeats", "s stride", "gives")
    parts = []
    for row, name in enumerate(names):
        y = TABLE + 42 + 25 * row
        parts.append(f'<path d="M20 {y - 17}H{WIDTH - 20}" stroke="{LINE}"/>')
        parts.append(text(24, y, name, anchor="start", colour=FAINT))
    return parts


def draw_block(left: float, title: str, shortcut: bool) -> list[str]:
    """An inverted residual: thin, wide, thin; with the shortcut where shapes allow it."""
    size, channels = ("h×w", "c") if shortcut else ("h/s×w/s", "c′")
    top, bottom = BLOCK_TOP + 44, BLOCK_TOP + 152
    middle = (top + bottom) / 2
    boxes = (("1×1 conv", "BN, ReLU6", EXPAND), ("3×3 depthwise", "BN, ReLU6", DEPTHWISE),
             ("1×1 conv", "BN, linear", PROJECT))
    maps = (("h×w", "c"), ("h×w", "t·c"), (size, "t·c"), (size, channels))
    parts = [f'<rect x="{left}" y="{BLOCK_TOP - 8}" width="{WIDTH / 2 - 36}" height="206" rx="10" fill="#f7f9fb" '
             f'stroke="{LINE}"/>',
             text(left + 16, BLOCK_TOP + 16, title, anchor="start", colour=FAINT)]
    starts = [left + 64 + 154 * number for number in range(3)]
    for number, (start, (name, after, colour)) in enumerate(zip(starts, boxes, strict=True)):
        # A box is as high as its widest tensor: the expansion opens, the projection closes.
        before, behind = (34 if number == 0 else 0), (34 if number == 2 else 0)
        corners = ((start, top + before), (start + 110, top + behind), (start + 110, bottom - behind),
                   (start, bottom - before))
        parts.append(polygon(corners, colour, 1.0, LINE))
        parts.append(text(start + 55, middle - 3, name, weight="bold", size=14))
        parts.append(text(start + 55, middle + 15, after, size=12, colour=FAINT))
    edges = [left + 22, *(start + 110 for start in starts)]
    ends = [*starts, left + (528 if shortcut else 540)]
    for edge, end, (shape, depth) in zip(edges, ends, maps, strict=True):
        parts.append(f'<path d="M{edge + 1} {middle}H{end - 2}" stroke="{FAINT}" stroke-width="1.6" '
                     'marker-end="url(#tip)"/>')
        parts.append(text((edge + end) / 2, middle - 10, shape, size=10.5))
        parts.append(text((edge + end) / 2, middle + 18, depth, size=12, weight="bold"))
    if shortcut:
        x, plus = edges[0] + 6, ends[-1] + 9
        parts.append(f'<path d="M{x} {middle}V{bottom + 22}H{plus}V{middle + 12}" fill="none" stroke="{FAINT}" '
                     'stroke-width="1.6" marker-end="url(#tip)"/>')
        parts.append(f'<circle cx="{plus}" cy="{middle}" r="10" fill="#ffffff" stroke="{FAINT}" stroke-width="1.6"/>')
        parts.append(text(plus, middle + 5.5, "+", size=17))
        parts.append(text((x + plus) / 2, bottom + 38, "shortcut", size=12, colour=FAINT))
    return parts


def text(x: float, y: float, words: str, size: float = 13.5, anchor: str = "middle", colour: str = INK,
         weight: str = "normal") -> str:
    """A line of text; `y` is its base line."""
    return (f'<text x="{x:.5g}" y="{y:.5g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def polygon(corners: Sequence[tuple[float, float]], colour: str, opacity: float, line: str = "#ffffff") -> str:
    """A filled area."""
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="{opacity}" stroke="{line}" stroke-width="1"/>'


if __name__ == "__main__":
    run_command(main)
