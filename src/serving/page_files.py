"""The files of the page. The page is the same for both ways; what classifies is another module."""
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

PAGE = {"index.html": "index.html", "style.css": "style.css", "page.js": "page.js", "pixels.js": "pixels.js"}
SERVED = {**PAGE, "classifier.js": "ask_server.js"}
ALONE = {**PAGE, "classifier.js": "run_here.js"}


def read_page(files: Mapping[str, str]) -> dict[str, tuple[bytes, str]]:
    """The content and the media type of each file, by its path on the server; the page itself is at /, too.

    Args:
        files: the names in src/serving/page/ by those on the server.
    """
    read = {f"/{name}": ((FOLDER / source).read_bytes(), KINDS[Path(source).suffix]) for name, source in files.items()}
    return {"/": read["/index.html"], **read}
