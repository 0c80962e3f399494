"""The table of docs/devices.md names for each claim the tests that show it, and these tests are there."""
import re

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "devices.md"
TABLE = re.compile(r"^\| what \| source \| shown by \|\n\|[-|]*\n((?:\|.*\n)+)", re.MULTILINE)
TESTS = {path.name: re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
         for path in (ROOT / "tests").rglob("test_*.py")}


def rows() -> list[tuple[str, str]]:
    """Each claim with what shows it."""
    table = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert table
    cells = [line.strip("|").split("|") for line in table[1].splitlines()]
    return [(claim.strip(), shown.strip()) for claim, _, shown in cells]


@pytest.mark.parametrize(("claim", "shown"), rows())
def test_what_shows_a_claim_is_there(claim: str, shown: str) -> None:
    """A file, a colon, and some of its tests; then the next file."""
    named = re.findall(r"`(test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", shown)
    assert named, claim
    assert len(re.findall("`test_", shown)) == sum(1 + names.count("`test_") for _, names in named)
    for file, names in named:
        assert set(re.findall(r"\w+", names)) <= set(TESTS[file])
