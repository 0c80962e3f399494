"""The table of widths and image sizes: 22 rows, counted in this network, and what the documents show of it."""
import pytest
from conftest import ROOT

from tools import network_table

# Million parameters, and million multiply-adds at 224 pixels, of the architecture with 1000 classes.
BY_WIDTH = {0.35: (1.677, 59), 0.5: (1.969, 97), 0.75: (2.636, 209), 1.0: (3.505, 301), 1.3: (5.387, 509),
            1.4: (6.109, 582)}
# At 192, 160, 128 and 96 pixels.
BY_SIZE = {0.35: (43, 30, 20, 11), 0.5: (71, 50, 32, 18), 0.75: (153, 107, 69, 39), 1.0: (221, 154, 99, 56)}
TOP1 = {0.35: (60.3, 58.2, 55.7, 50.8, 45.5), 0.5: (65.4, 63.9, 61.0, 57.7, 51.2), 0.75: (69.8, 68.7, 66.4, 63.2, 58.8),
        1.0: (71.8, 70.7, 68.8, 65.3, 60.3), 1.3: (74.4,), 1.4: (75.0,)}


@pytest.fixture(scope="module")
def table() -> str:
    return network_table.table()


def test_the_numbers_are_the_published_ones(table: str) -> None:
    rows = [[float(cell) for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 22
    for width, (parameters, multiply_adds) in BY_WIDTH.items():
        found = [row for row in rows if row[0] == width]
        assert [row[1] for row in found] == [224, 192, 160, 128, 96][:len(found)]
        assert {row[2] for row in found} == {parameters}
        assert found[0][3] == multiply_adds
        # The authors cut the fraction off where this table rounds.
        assert all(row[3] - published in {0, 1} for row, published in zip(found[1:], BY_SIZE.get(width, ()),
                                                                          strict=True))
        assert tuple(row[4] for row in found) == TOP1[width]


def test_the_documents_show_what_the_command_prints(table: str, capsys: pytest.CaptureFixture) -> None:
    network_table.main([])
    assert capsys.readouterr().out == f"{table}\n"
    assert f"\n\n{table}\n\n" in (ROOT / "docs/recipes.md").read_text(encoding="utf-8"), "tools/network_table.py"
