"""docs/parameters.md: every key with what it means, its default, its allowed values and the commands that read it.

    python tools/parameter_table.py --output docs/parameters.md

Run it whenever a key has changed; a test holds the page equal to what it writes.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.files import atomic_write
from src.model_utils.config import BASE_FILE, PROFILES
from src.model_utils.keys import COMMANDS, KEYS, RULES, Key

PREFACE = """# All parameters

Every key is an option of `train.py`, `eval.py`, `export.py` and `infer.py`, `--key value`, and a line of a YAML file,
`key: value`. The last column has the commands that read a key; the others accept and ignore it. The values are those
for Ascend; what another profile or recipe states instead stands beside them. This page is written by
`python tools/parameter_table.py --output docs/parameters.md`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser(description="Every key of the configuration as a page of tables.")
    parser.add_argument("--output", required=True, type=Path, help="Markdown file to write")
    options = parser.parse_args(argv)
    with atomic_write(options.output) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    print(options.output)


def page() -> str:
    """The whole page as Markdown."""
    others = other_values()
    lines = [PREFACE]
    for group in dict.fromkeys(key.group for key in KEYS.values()):
        lines += [f"## {group[0].upper()}{group[1:]}\n", "| key | default | what | read by |", "|---|---|---|---|"]
        for name, key in KEYS.items():
            if key.group == group:
                other = "".join(f"; {where}: {code(stated[name])}" for where, stated in others.items()
                                if stated.get(name, key.default) not in {key.default, where})
                about = escape(key.help) + rules(key) + aliases(key)
                lines.append(f"| `{name}` | {code(key.default)}{other} | {about} | {readers(key)} |")
        lines.append("")
    return "\n".join(lines)


def other_values() -> dict[str, dict]:
    """What profiles and recipes state."""
    others: dict[str, dict] = {}
    for platform, path in PROFILES.items():
        others[platform], *own = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        others |= {f"recipe {name} on {platform}": stated for name, stated in (own[0] if own else {}).items()}
    _, recipes = yaml.safe_load_all(BASE_FILE.read_text(encoding="utf-8"))
    return others | {f"recipe {name}": stated for name, stated in recipes.items()}


def code(value: object) -> str:
    """A value as one writes it on a command line."""
    return "empty" if value == "" else f"`{value}`"


def escape(text: str) -> str:
    """Words in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def rules(key: Key) -> str:
    """A sentence on what values a key may have, where the help text does not name all of them."""
    bounds = dict(key.bounds)
    told = [f"from {bounds.pop('min')} to {bounds.pop('max')}"] if {"min", "max"} <= bounds.keys() else []
    told += [f"{RULES[rule][1]} {bound}" for rule, bound in bounds.items()]
    if not all(choice in key.help for choice in key.choices):
        told.append(f"one of {', '.join(f'`{choice}`' for choice in key.choices)}")
    sentence = ", ".join(told)
    return f" {sentence[0].upper()}{sentence[1:]}." if told else ""


def aliases(key: Key) -> str:
    """Other names of a key."""
    return f" Also {', '.join(f'`{alias}`' for alias in key.aliases)}." if key.aliases else ""


def readers(key: Key) -> str:
    """The commands that read a key."""
    return "all" if key.commands == COMMANDS else ", ".join(command.removesuffix(".py") for command in key.commands)


if __name__ == "__main__":
    run_command(main)
