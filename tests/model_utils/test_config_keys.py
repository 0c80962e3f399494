"""Every key of the configuration is read by code, has a help text, and stands in the documents; so do the figures that
commands of this project draw for them."""
import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from src.model_utils.keys import ALIASES, COMMANDS, KEYS, RULES, TRAIN, Keys, with_present_names
from tools import draw_network, parameter_table

CODE = [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]


def keys_read(source: str) -> Iterator[str]:
    """Names that code takes from a configuration: `config.key`, `self._config.key`, `config.adopt(values, "key")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name.lstrip("_") == "config":
                yield node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "adopt":
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def test_what_counts_as_reading() -> None:
    source = ('a = config.one + self._config.two + model.config.three\nconfig.adopt(values, "four")\n'
              '# config.five\nb = "config.six"\nother.seven\nconfig.eight = 1')
    assert set(keys_read(source)) == {"one", "two", "three", "four", "adopt"}


@functools.cache
def keys_of(path: Path) -> set[str]:
    return {ALIASES.get(key, key) for key in keys_read(path.read_text(encoding="utf-8"))} & KEYS.keys()


@functools.cache
def modules_of(command: str) -> set[Path]:
    """The command's file and all files of this project that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [ROOT / command]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += [ROOT / f"{node.module.replace('.', '/')}.py"
                        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                        if isinstance(node, ast.ImportFrom) and node.module]
    return found


def test_every_key_is_read_by_some_code() -> None:
    assert KEYS.keys() - set().union(*map(keys_of, CODE)) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_declared_to_read_what_its_code_reads(command: str) -> None:
    """What stands in its own file, and nothing that none of its modules reads."""
    declared = {name for name, key in KEYS.items() if command in key.commands}
    assert keys_of(ROOT / command) - declared == set()
    assert declared - set().union(*map(keys_of, modules_of(command))) == set()


# ---- what is declared

@pytest.mark.parametrize("name", KEYS)
def test_a_declaration_is_complete_and_agrees_with_itself(name: str) -> None:
    key, annotation = KEYS[name], {field.name: field.type for field in dataclasses.fields(Keys)}[name]
    assert type(key.default) is annotation
    assert key.help[0].isupper() or key.help.split()[0] in key.choices + ("obs://", "auto")
    assert key.help.endswith(".")
    assert set(key.commands) <= set(COMMANDS)
    assert key.commands
    assert not key.choices or annotation is str
    assert not key.bounds or annotation in {int, float}
    assert key.bounds.keys() <= RULES.keys()
    assert not (key.affects_result and TRAIN not in key.commands)


def test_no_name_means_two_keys() -> None:
    names = [*KEYS, *(alias for key in KEYS.values() for alias in key.aliases)]
    assert len(names) == len(set(names))


def test_stored_values_have_the_present_names_of_their_keys() -> None:
    assert with_present_names({"clip_norm": 0.5, "seed": 3, "of another program": 1}) == \
        {"grad_clip_norm": 0.5, "seed": 3, "of another program": 1}


# ---- documents


def test_the_table_of_parameters_is_of_these_keys() -> None:
    page = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    assert [key for key in KEYS if f"\n| `{key}` | " not in page] == []
    assert page == parameter_table.page(), "python tools/parameter_table.py --output docs/parameters.md"


def test_the_figure_is_of_this_network(tmp_path: Path) -> None:
    drawn = tmp_path / "network.svg"
    draw_network.main(["--output", str(drawn)])
    committed = ROOT / "docs/network.svg"
    assert drawn.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), (
        "python tools/draw_network.py --output docs/network.svg")
