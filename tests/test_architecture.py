"""The diagram of the folders in docs/architecture.md is that of the code: imports only go down, in no circle."""
import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "architecture.md"
ENTRANCES = {"commands", "tools"}  # their arrows are not drawn
EVERYWHERE = {"config", "foundation"}  # nor are those to here
# Paths that documents name. CHANGELOG.md tells of earlier versions, too.
NAMED = re.compile(r"(?<![\w./-])(?:src|tests|tools|scripts|docs|hub|ascend310_infer)/[\w./*-]*")
PAGES = sorted(page for folder in (".", "docs", "hub") for page in (ROOT / folder).glob("*.md")
               if page.name != "CHANGELOG.md")


@functools.cache
def diagram() -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """The paths of each room, from the top of the house to its ground; and the arrows."""
    found = re.search(r"^```mermaid\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    rooms = {name: label.split() for name, label in re.findall(r'^ *(\w+)\["(.*)"\]$', found[1], re.MULTILINE)}
    arrows = {(name, target) for name, targets in re.findall(r"^ *(\w+) --> (.+)$", found[1], re.MULTILINE)
              for target in targets.split(" & ")}
    return rooms, arrows


def room_of(path: str) -> str:
    """The one room that a file belongs to."""
    found = [name for name, paths in diagram()[0].items()
             if any(path == part or (part.endswith("/") and path.startswith(part)) for part in paths)]
    assert len(found) == 1, f"{path} is in the rooms {found}"
    return found[0]


@functools.cache
def imports() -> dict[str, set[str]]:
    """The files of this project that each of its files imports, those imported within functions, too."""
    files = [*ROOT.glob("*.py"), *(path for folder in ("src", "tools", "scripts")
                                   for path in (ROOT / folder).rglob("*.py"))]
    paths = {module_name(path): str(path.relative_to(ROOT)) for path in files}
    return {paths[module_name(path)]: {paths[name] for name in imported(path) if name in paths} for path in files}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Names of modules, and of what is taken from them, which may be modules as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def arrows_of_the_code() -> dict[tuple[str, str], str]:
    """Each arrow between two rooms, with an import that makes it."""
    return {(room_of(path), room_of(target)): f"{path} imports {target}"
            for path, targets in imports().items() for target in targets if room_of(path) != room_of(target)}


def test_arrows_are_those_drawn() -> None:
    found = {arrow: example for arrow, example in arrows_of_the_code().items()
             if arrow[0] not in ENTRANCES and arrow[1] not in EVERYWHERE}
    drawn = diagram()[1]
    assert {example for arrow, example in found.items() if arrow not in drawn} == set()
    assert drawn - found.keys() == set()


def test_imports_only_go_down() -> None:
    floor = {name: number for number, name in enumerate(diagram()[0])}
    assert [example for (room, target), example in arrows_of_the_code().items() if floor[room] >= floor[target]] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A package imports its own modules, and is imported with each of them.
    graph = {path: {target for target in targets if not target.endswith("__init__.py")}
             for path, targets in imports().items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_reports_know_nothing_of_training() -> None:
    assert [path for path, targets in imports().items() if path.startswith("src/reports/")
            and any(target.startswith("src/training/") for target in targets)] == []


def test_every_room_has_its_paragraph() -> None:
    text = PAGE.read_text(encoding="utf-8").split("```")[2]
    assert [path for name, paths in diagram()[0].items() for path in paths
            if name != "foundation" and f"`{path}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_documents_exist(page: Path) -> None:
    paths = {path.rstrip("./") for path in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert [path for path in sorted(paths) if not any(ROOT.glob(path))] == []
