"""docs/parameters.md: every key of default_config.yaml, with its help text, defaults and allowed values.

    python tools/parameter_table.py --output docs/parameters.md

Run it whenever a key has changed; a test holds the page equal to what it writes.
"""
import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.files import atomic_write
from src.model_utils.config import ALIASES, BASE_FILE, PROFILES

BOUNDS = {"min": "at least {}", "max": "at most {}", "below": "less than {}", "multiple_of": "a multiple of {}"}
PREFACE = """# All parameters

Every key of `default_config.yaml` is an option of `train.py`, `eval.py`, `export.py` and `infer.py`: `--key value`. The
values are those for Ascend; what another profile or recipe states instead stands beside them. This page is written by
`python tools/parameter_table.py --output docs/parameters.md`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser(description="Every key of default_config.yaml as a page of tables.")
    parser.add_argument("--output", required=True, type=Path, help="Markdown file to write")
    options = parser.parse_args(argv)
    with atomic_write(options.output) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    print(options.output)


def page() -> str:
    """The whole page as Markdown."""
    text = BASE_FILE.read_text(encoding="utf-8")
    values, help_texts, allowed, recipes = yaml.safe_load_all(text)
    others: dict[str, dict] = {}
    for platform, path in PROFILES.items():
        others[platform], *own = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        others |= {f"recipe {name} on {platform}": stated for name, stated in (own[0] if own else {}).items()}
    others |= {f"recipe {name}": stated for name, stated in recipes.items()}
    lines = [PREFACE]
    for title, keys in sections(text.split("\n---\n")[0]):
        lines += [f"## {title[0].upper()}{title[1:]}\n", "| key | default | what |", "|---|---|---|"]
        for key in keys:
            other = "".join(f"; {name}: {code(stated[key])}" for name, stated in others.items()
                            if stated.get(key, values[key]) not in {values[key], name})
            about = escape(help_texts[key]) + rules(allowed.get(key), help_texts[key]) + aliases(key)
            lines.append(f"| `{key}` | {code(values[key])}{other} | {about} |")
        lines.append("")
    return "\n".join(lines)


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Titles of the base file's parts, with their keys."""
    for part in re.split(r"^# ---- ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        yield title.partition(":")[0], list(yaml.safe_load(rest))


def code(value: object) -> str:
    """A value as one writes it on a command line."""
    return "empty" if value == "" else f"`{value}`"


def escape(text: str) -> str:
    """Words in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def rules(allowed: Sequence[str] | Mapping[str, Any] | None, told: str) -> str:
    """What values a key may have, where the help text does not tell all of them."""
    if isinstance(allowed, Mapping):
        bounds = dict(allowed)
        span = [f"{bounds.pop('min')} to {bounds.pop('max')}"] if {"min", "max"} <= bounds.keys() else []
        return f" ({', '.join(span + [BOUNDS[rule].format(bound) for rule, bound in bounds.items()])})"
    if not allowed or all(choice in told for choice in allowed):
        return ""
    return f" (one of {', '.join(f'`{choice}`' for choice in allowed)})"


def aliases(key: str) -> str:
    """Other names of a key."""
    names = [f"`{alias}`" for alias, meant in ALIASES.items() if meant == key]
    return f"; also {', '.join(names)}" if names else ""


if __name__ == "__main__":
    run_command(main)
