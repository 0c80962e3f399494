"""Features of a frozen backbone: what they are, and when the cache may be used."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images
from mindspore import Tensor

from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.distributed.world import World
from src.mobilenetV2 import MobileNetV2
from src.training.features import pooled_features


@pytest.fixture(scope="module")
def backbone():  # type: ignore[no-untyped-def]  # noqa: ANN201
    network = MobileNetV2(2, 0.35).backbone
    network.set_train(False)
    return network


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    return ImageFolder.scan(make_images(tmp_path / "photos", {"cat": 3, "dog": 2}))


def cached(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*.npy")}


def test_they_are_the_mean_of_the_map_in_the_folders_order(backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    features = pooled_features(backbone, folder, 64, batch_size=2, num_workers=1, world=World())
    assert features.shape == (5, 1280, 1, 1)
    assert features.dtype == np.float32
    (images, labels), = ImageData(folder, 64, 5, training=False).epoch()
    expected = backbone(images).asnumpy().mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert labels.asnumpy().tolist() == folder.labels.tolist()


def test_the_second_time_they_come_from_the_cache(backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    first = pooled_features(backbone, folder, 32, 2, 1, World())
    file, = own_cache.rglob("*.npy")
    marked = np.load(file)
    marked[0] = 7
    np.save(file, marked)
    again = pooled_features(backbone, folder, 32, 5, 1, World())  # another batch size, the same features
    assert again[0, 0, 0, 0] == 7
    file.unlink()
    np.testing.assert_allclose(pooled_features(backbone, folder, 32, 2, 1, World()), first, atol=1e-6)


def test_those_of_a_part_are_taken_from_the_whole_folder(backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    whole = pooled_features(backbone, folder, 32, 2, 1, World())
    files = cached(own_cache)
    part = folder.part(np.array([4, 1]))
    np.testing.assert_array_equal(pooled_features(backbone, part, 32, 2, 1, World()), whole[[4, 1]])
    assert cached(own_cache) == files


@pytest.mark.parametrize("content", ["", "damaged", "cut", "other shape", "other type"])
def test_a_damaged_cache_is_computed_anew(content: str, backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    first = pooled_features(backbone, folder, 32, 2, 1, World()).copy()
    file, = own_cache.rglob("*.npy")
    whole = file.read_bytes()
    if content.startswith("other"):
        np.save(file, np.zeros((3, 1280, 1, 1), np.float32) if content == "other shape" else first.astype(np.float64))
    else:
        file.write_bytes({"": b"", "damaged": whole.replace(b"NUMPY", b"NUMPI"), "cut": whole[:-9]}[content])
    np.testing.assert_array_equal(pooled_features(backbone, folder, 32, 2, 1, World()), first)
    assert file.read_bytes() == whole


def test_other_weights_size_or_files_are_other_features(backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    pooled_features(backbone, folder, 32, 2, 1, World())
    names = [cached(own_cache)]

    def grew() -> bool:
        names.append(cached(own_cache))
        return len(names[-1]) == len(names[-2]) + 1

    pooled_features(backbone, folder, 64, 2, 1, World())
    assert grew(), "another image size"

    gamma = backbone.last.bn.gamma
    value = gamma.asnumpy().copy()
    value[0] += 1
    gamma.set_data(Tensor(value))
    pooled_features(backbone, folder, 32, 2, 1, World())
    assert grew(), "another weight"
    mean = backbone.last.bn.moving_mean
    mean.set_data(Tensor(mean.asnumpy() + 1))
    pooled_features(backbone, folder, 32, 2, 1, World())
    assert grew(), "another batch norm statistic"

    image = folder.root / "cat" / "000.jpg"
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 10 ** 9))
    pooled_features(backbone, ImageFolder.scan(folder.root), 32, 2, 1, World())
    assert grew(), "an image written again"
    shutil.copy(image, folder.root / "cat" / "100.jpg")
    assert len(pooled_features(backbone, ImageFolder.scan(folder.root), 32, 2, 1, World())) == 6
    assert grew(), "an image more"


def test_nothing_is_written_beside_the_images(backbone, own_cache, folder) -> None:  # type: ignore[no-untyped-def]
    before = sorted(folder.root.parent.rglob("*"))
    pooled_features(backbone, folder, 32, 2, 1, World())
    after = {path for path in folder.root.parent.rglob("*") if own_cache not in {path, *path.parents}}
    assert sorted(after) == before
