"""The load test: it counts right, and the server loses and mixes up nothing under many clients."""
import asyncio
from pathlib import Path

import pytest
from conftest import make_images

from src.errors import UserError
from src.serving.start import PACKAGES
from tests.support.serving import write_model
from tools.load_test import load, main, started_server

for package in PACKAGES:
    pytest.importorskip(package, reason="needs requirements-serve.txt")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.ckpt")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("photos"), {"blue": 4, "green": 4, "red": 4}, size=(90, 80))


def test_two_hundred_clients_lose_nothing(model: Path, photos: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--model", str(model), "--images", str(photos), "--clients", "200", "--seconds", "3"])
    told = capsys.readouterr().out
    assert "200 clients, " in told
    assert "refused 0, lost 0, wrong 0" in told
    assert "exit status 0" in told


def test_a_full_queue_is_counted_as_refused(model: Path, photos: Path) -> None:
    images = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    with started_server(model, "--queue_length", 4) as server:
        found = asyncio.run(load(server, images, 8, 1.0))
    assert found.refused > 0
    assert found.times
    assert (found.lost, found.wrong, found.exit_status) == (0, 0, 0)


def test_nonsense_is_refused(model: Path, photos: Path) -> None:
    for option in (("--clients", "0"), ("--clients", "5000"), ("--seconds", "0"), ("--seconds", "1e9")):
        with pytest.raises(UserError, match="--clients must be 1 to 1000"):
            main(["--model", str(model), "--images", str(photos), *option])
