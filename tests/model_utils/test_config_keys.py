"""Every key of the configuration is read by code, has a help text, and stands in the documents; so do the figures that
commands of this project draw for them."""
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from src.model_utils.config import BASE_FILE
from tools import draw_network, parameter_table

VALUES, HELP, ALLOWED, _ = yaml.safe_load_all(BASE_FILE.read_text(encoding="utf-8"))
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


@pytest.fixture(scope="module")
def read() -> set[str]:
    return {key for path in CODE for key in keys_read(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("key", sorted(VALUES))
def test_every_key_is_read_by_some_code(key: str, read: set[str]) -> None:
    assert key in read


def test_every_key_has_help_and_every_rule_a_key() -> None:
    assert set(HELP) == set(VALUES)
    assert set(ALLOWED) <= set(VALUES)
    assert all(str(text).strip() for text in HELP.values())


def test_the_table_of_parameters_is_of_these_keys() -> None:
    page = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    assert [key for key in VALUES if f"\n| `{key}` | " not in page] == []
    assert page == parameter_table.page(), "python tools/parameter_table.py --output docs/parameters.md"


def test_the_figure_is_of_this_network(tmp_path: Path) -> None:
    drawn = tmp_path / "network.svg"
    draw_network.main(["--output", str(drawn)])
    committed = ROOT / "docs/network.svg"
    assert drawn.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), (
        "python tools/draw_network.py --output docs/network.svg")
