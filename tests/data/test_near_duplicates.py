"""Images of one scene are found, whatever became of their files; other images are not taken for one."""
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from src.cache_folder import cache_folder
from src.data import near_duplicates, shared_work
from src.data.image_folder import ImageFolder
from src.data.look_memory import LookMemory
from src.data.near_duplicates import (
    DISTANCE,
    HASH_BYTES,
    LOOK_BYTES,
    OFF,
    check_distance,
    closest_pairs,
    near_pairs,
    read_looks,
    scenes,
)
from src.data.split import hold_out
from src.distributed import collectives
from src.distributed.world import World
from src.errors import UserError
from src.files import lock


def scene(number: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture of large soft spots, another one for each number."""
    spots = np.random.default_rng(number).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)


def variants(number: int) -> dict[str, Image.Image]:
    """One scene as it comes twice into a data set."""
    original = scene(number)
    noise = np.random.default_rng(number).integers(-20, 21, (180, 240, 3))
    return {"original.jpg": original, "small.jpg": original.resize((100, 75)), "other.png": original,
            "bright.jpg": ImageEnhance.Brightness(original).enhance(1.1),
            "noisy.png": Image.fromarray(np.clip(np.asarray(original) + noise, 0, 255).astype(np.uint8)),
            "cropped.jpg": original.crop((3, 2, 237, 179))}


def write(folder: Path, images: dict[str, Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Four scenes of six images each, and twenty that are alone. Not to be changed."""
    root = tmp_path_factory.mktemp("scenes")
    for number in range(4):
        write(root / "apple" / f"scene{number}", variants(number))
    write(root / "pear", {f"{number}.jpg": scene(100 + number) for number in range(20)})
    return ImageFolder.scan(root)


def test_a_scene_is_one_and_others_are_others(folder: ImageFolder) -> None:
    found = scenes(read_looks(folder))
    by_scene: dict[int, set[str]] = {}
    for file, number in zip(folder.files, found.tolist(), strict=True):
        by_scene.setdefault(number, set()).add(file.rpartition("/")[0] if file.startswith("apple") else file)
    assert sorted(map(len, by_scene.values())) == [1] * 24
    assert len(set(map(frozenset, by_scene.values()))) == 24


def test_the_colours_count(tmp_path: Path) -> None:
    """A red and a green fruit before the same wall have the same hash."""
    grey = scene(1).convert("L")
    write(tmp_path / "fruit", {f"{colour}.png": ImageOps.colorize(grey, "black", colour)
                               for colour in ("#ff4040", "#40a040")})
    looks = read_looks(ImageFolder.scan(tmp_path))
    assert (looks[0, :HASH_BYTES] == looks[1, :HASH_BYTES]).all()
    assert len(set(scenes(looks).tolist())) == 2


def test_what_has_no_look_is_like_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", {f"{n}.png": Image.new("RGB", (40, 40), (200, n, n)) for n in range(3)})
    (tmp_path / "a" / "x.jpg").write_text("no image")
    (tmp_path / "a" / "y.jpg").write_text("no image, either")
    looks = read_looks(ImageFolder.scan(tmp_path))
    assert not looks.any()
    assert scenes(looks).tolist() == list(range(5))


@pytest.mark.parametrize("distance", [0, 1, 8, 16])
def test_no_pair_is_missed(distance: int) -> None:
    """Compared with all pairs, one by one."""
    generator = np.random.default_rng(distance)
    looks = np.full((300, LOOK_BYTES), 100, np.uint8)
    looks[:, :HASH_BYTES] = np.packbits(generator.random((300, 64)) < generator.random(64), axis=1)
    for position in range(1, 150):  # so that every distance occurs
        bits = np.unpackbits(looks[position - 1, :HASH_BYTES])
        bits[generator.integers(0, 64, generator.integers(0, 20))] ^= 1
        looks[position, :HASH_BYTES] = np.packbits(bits)
    bits = np.unpackbits(looks[:, :HASH_BYTES], axis=1).astype(int)
    distances = np.abs(bits[:, None] - bits[None]).sum(axis=2)
    expected = {(i, j) for i, j in np.argwhere(distances <= distance).tolist() if i < j}
    pieces = list(near_pairs(looks, distance))
    assert {(min(pair), max(pair)) for one, other in pieces
            for pair in zip(one.tolist(), other.tolist(), strict=True)} == expected
    assert all(len(one) <= 300 for one, _ in pieces)

    closest = closest_pairs(looks[:100], looks[100:], distance)
    across = distances[:100, 100:]
    assert {position: bits for position, _, bits in closest} == {
        position: row.min() for position, row in enumerate(across) if row.min() <= distance}
    assert all(across[one, other] == bits for one, other, bits in closest)
    assert [bits for *_, bits in closest] == sorted(bits for *_, bits in closest)


def test_a_video_of_one_scene_is_one() -> None:
    """Memory stays small where every image looks like every other one."""
    looks = np.full((5000, LOOK_BYTES), 100, np.uint8)
    assert set(scenes(looks).tolist()) == {0}


def test_looks_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    write(tmp_path / "a", {"1.png": scene(1), "2.png": scene(2)})
    folder = ImageFolder.scan(tmp_path)
    looks = read_looks(folder)
    memory = max(cache_folder("looks").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    told = json.loads(memory.read_text())
    told["a/1.png"][1] = "11" * LOOK_BYTES
    memory.write_text(json.dumps(told))
    assert (read_looks(folder)[0] == 0x11).all()
    os.utime(tmp_path / "a/1.png", ns=(1, 1))
    folder = ImageFolder.scan(tmp_path)  # a folder knows its files as they were
    np.testing.assert_array_equal(read_looks(folder), looks)
    memory.write_text('{"a/1.png": 3}')
    np.testing.assert_array_equal(read_looks(folder), looks)


def test_ranks_share_the_looks_and_wait_in_no_collective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank is at two of six files, and leaves there what it found. Nothing is summed over the ranks."""
    monkeypatch.setattr(shared_work, "PORTION", 2)
    monkeypatch.setattr(shared_work, "POLL", 0.01)
    monkeypatch.setattr(collectives, "all_reduce", None)
    looked_at: list[str] = []

    def look(path: Path) -> str:
        looked_at.append(path.name)
        return real_look(path)

    real_look = near_duplicates._look  # noqa: SLF001
    monkeypatch.setattr(near_duplicates, "_look", look)
    write(tmp_path / "a", {f"{number}.png": scene(number) for number in range(6)})
    folder = ImageFolder.scan(tmp_path)
    other = LookMemory(folder, 2 * LOOK_BYTES).share(np.arange(6))
    with ThreadPoolExecutor(1) as beside, other.path(other.portions[1]).open("wb") as file:
        assert lock(file.fileno())
        held_out = beside.submit(hold_out, folder, 0.34, 1, World(1, 2))
        while len(looked_at) < 4:
            time.sleep(0.01)
        file.write(json.dumps([["22" * LOOK_BYTES], ["33" * LOOK_BYTES]]).encode())
        file.close()
        train, val = held_out.result()
    assert sorted(looked_at) == ["0.png", "1.png", "4.png", "5.png"]
    assert sorted(train.files + val.files) == sorted(folder.files)
    assert [int(looks[0]) for looks in read_looks(folder)[2:4]] == [0x22, 0x33]
    assert len(looked_at) == 4


def test_the_look_of_a_turned_photo_is_that_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    scene(1).transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", exif=exif)
    write(tmp_path / "a", {"1.jpg": scene(1)})
    (tmp_path / "a/2.jpg").write_bytes(turned.getvalue())
    assert set(scenes(read_looks(ImageFolder.scan(tmp_path))).tolist()) == {0}


def test_images_held_out_share_no_scene_with_others(folder: ImageFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        train, val = hold_out(folder, 0.25, seed)
        assert val.labels.tolist().count(0) == 6  # a whole scene
        assert {file.rpartition("/")[0] for file in train.files} & {
            file.rpartition("/")[0] for file in val.files} == {"pear"}
    assert "kept together: 24 images of 4 scenes, which look alike (at most 8 of 64 bits" in capsys.readouterr().out


def test_the_distance_has_bounds() -> None:
    for distance in OFF, DISTANCE, 16:
        check_distance(distance)
    for distance in -2, 17:
        with pytest.raises(UserError, match="--scene_distance must be -1 to 16"):
            check_distance(distance)
