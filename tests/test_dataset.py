"""Batches: every image once in evaluation, and an order that follows from seed and epoch alone."""
import dataclasses
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest
from conftest import Images

from src.data.image_folder import ImageFolder
from src.data.transforms import eval_transforms, train_transforms
from src.dataset import IGNORE_INDEX, Batch, FeatureData, ImageData, growing_size, training_order, usable_workers
from src.errors import UserError


def batches(data: ImageData | FeatureData, epoch: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    def arrays(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return batch[0].asnumpy().copy(), batch[1].asnumpy().copy()
    return [arrays(batch) for batch in data.epoch(epoch)]


# ---- evaluation batches

@pytest.mark.parametrize("batch_size", [1, 4, 7, 9, 400])
def test_evaluation_shows_every_image_once_in_order(batch_size: int, photos: Path) -> None:
    folder = ImageFolder.scan(photos / "val")
    data = ImageData(folder, 32, batch_size, training=False)
    found = batches(data)
    labels = np.concatenate([labels for _, labels in found])
    assert len(found) == data.steps_per_epoch == -(-9 // min(batch_size, 9))
    assert {images.shape for images, _ in found} == {(data.batch_size, 3, 32, 32)}
    assert labels[labels != IGNORE_INDEX].tolist() == folder.labels.tolist()
    assert labels[:9].tolist() == folder.labels.tolist()  # padding comes last
    images = np.concatenate([images for images, _ in found])[:9]
    (reference, _), = batches(ImageData(folder, 32, 9, training=False))
    np.testing.assert_array_equal(images, reference)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_the_evaluation_images_without_repeats(ranks: int, photos: Path) -> None:
    folder = ImageFolder.scan(photos / "val")
    shards = [ImageData(folder, 32, 2, training=False, rank=rank, rank_size=ranks) for rank in range(ranks)]
    assert sum(shard.images for shard in shards) == 9
    counts = np.zeros(3, int)
    for shard in shards:
        labels = np.concatenate([labels for _, labels in batches(shard)])
        assert (labels != IGNORE_INDEX).sum() == shard.images
        counts += np.bincount(labels[labels != IGNORE_INDEX], minlength=3)
    assert counts.tolist() == np.bincount(folder.labels).tolist()


def test_hidden_images_shift_no_label(images: Images) -> None:
    root = images({"a": 2, "b": 2, "c": 2}, ending=".png")
    whole = batches(ImageData(ImageFolder.scan(root), 32, 6, training=False))
    (root / "a" / ".0.png").write_bytes((root / "c" / "000.png").read_bytes())
    (root / "b" / ".DS_Store").write_bytes(b"x")
    (root / "aa").mkdir()
    (root / ".b").mkdir()
    (root / ".b" / "0.png").write_bytes((root / "c" / "000.png").read_bytes())
    again = batches(ImageData(ImageFolder.scan(root), 32, 6, training=False))
    np.testing.assert_array_equal(whole[0][0], again[0][0])
    assert again[0][1].tolist() == [0, 0, 1, 1, 2, 2]


# ---- training batches

def test_training_drops_what_fills_no_batch(photos: Path) -> None:
    data = ImageData(ImageFolder.scan(photos / "train"), 32, 4, training=True)
    found = batches(data)
    assert len(found) == data.steps_per_epoch == 21 // 4
    assert {images.shape for images, _ in found} == {(4, 3, 32, 32)}
    assert all((labels != IGNORE_INDEX).all() for _, labels in found)


def test_fewer_images_than_a_batch_make_one_smaller_batch(photos: Path) -> None:
    data = ImageData(ImageFolder.scan(photos / "train"), 32, 256, training=True)
    assert (data.batch_size, data.steps_per_epoch) == (21, 1)
    (images, labels), = batches(data)
    assert images.shape[0] == 21
    assert np.bincount(labels).tolist() == [8, 7, 6]


def test_same_seed_and_epoch_give_the_same_batches(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")

    def content(seed: int, epoch: int) -> np.ndarray:
        return np.concatenate([images for images, _ in batches(
            ImageData(folder, 32, 7, training=True, seed=seed), epoch)])

    reference = content(3, 5)
    np.testing.assert_array_equal(content(3, 5), reference)
    assert not np.array_equal(content(3, 6), reference)
    assert not np.array_equal(content(4, 5), reference)


@pytest.mark.parametrize("training", [False, True])
def test_the_bits_are_those_of_mindspores_reader_of_folders(photos: Path, training: bool) -> None:
    """Runs that were begun with that reader go on with the same batches."""
    folder = ImageFolder.scan(photos / "train")
    data = ImageData(folder, 32, 5, training=training, seed=2, num_workers=2)
    order = training_order(21, 2, 3)[:20] if training else np.arange(21)
    found = batches(data, 3)
    ds.config.set_seed(int(np.random.default_rng((2, 3, 0)).integers(1, 2 ** 31)))
    reader = ds.ImageFolderDataset(str(photos / "train"), num_parallel_workers=usable_workers(2),
                                   sampler=ds.SubsetSampler(order.tolist()))
    reader = reader.map(train_transforms(32) if training else eval_transforms(32), "image",
                        num_parallel_workers=usable_workers(2)).batch(5, num_parallel_workers=1)
    expected = list(reader.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert len(found) == len(expected)
    for (images, labels), (wanted_images, wanted_labels) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images[:len(wanted_images)], wanted_images)
        assert labels[:len(wanted_labels)].tolist() == wanted_labels.tolist()


def test_orders_are_permutations_and_ranks_share_them() -> None:
    whole = training_order(23, seed=1, epoch=2)
    assert sorted(whole) == list(range(23))
    shards = [training_order(23, 1, 2, rank, 3) for rank in range(3)]
    assert sorted(np.concatenate(shards)) == list(range(23))
    assert not np.array_equal(whole, training_order(23, 1, 3))


def test_every_rank_makes_the_same_number_of_steps(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    shards = [ImageData(folder, 32, 3, training=True, rank=rank, rank_size=2) for rank in range(2)]
    assert [shard.steps_per_epoch for shard in shards] == [3, 3]
    assert [len(batches(shard)) for shard in shards] == [3, 3]


# ---- all classes equally often

LABELS = np.repeat(np.arange(4, dtype=np.int32), (40, 12, 4, 1))


@pytest.mark.parametrize("epoch", range(4))
def test_a_balanced_epoch_is_as_long_and_has_all_classes_equally_often(epoch: int) -> None:
    order = training_order(57, 3, epoch, balanced_labels=LABELS)
    assert sorted(np.bincount(LABELS[order])) == [14, 14, 14, 15]
    drawn = np.bincount(order, minlength=57)
    for label in range(4):
        assert np.ptp(drawn[label == LABELS]) <= 1  # none a second time before all have been drawn
    assert (np.diff(LABELS[order]) != 0).sum() > 25  # classes are mixed, not one after the other
    np.testing.assert_array_equal(order, training_order(57, 3, epoch, balanced_labels=LABELS))
    assert not np.array_equal(order, training_order(57, 3, epoch + 1, balanced_labels=LABELS))
    assert not np.array_equal(order, training_order(57, 4, epoch, balanced_labels=LABELS))


def test_what_does_not_divide_goes_to_classes_at_random() -> None:
    more = [int(np.bincount(LABELS[training_order(57, 3, epoch, balanced_labels=LABELS)]).argmax())
            for epoch in range(40)]
    assert set(more) == {0, 1, 2, 3}


@pytest.mark.parametrize(("counts", "expected"), [((5,), [5]), ((1, 1, 1), [1, 1, 1]), ((3, 0, 3), [3, 0, 3]),
                                                 ((0, 9, 1, 0), [0, 5, 5, 0])])
def test_classes_without_images_are_not_drawn_from(counts: tuple, expected: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = training_order(len(labels), 1, 0, balanced_labels=labels)
    assert np.bincount(labels[order], minlength=len(counts)).tolist() == expected


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_one_balanced_order(ranks: int) -> None:
    whole = training_order(57, 3, 1, balanced_labels=LABELS)
    for rank in range(ranks):
        own = training_order(57, 3, 1, rank, ranks, balanced_labels=LABELS)
        np.testing.assert_array_equal(own, whole[rank::ranks])


def test_balanced_batches_of_images_and_features_are_those_of_the_order_and_resume_within_it(images: Images) -> None:
    folder = ImageFolder.scan(images({"cat": 9, "dog": 2, "eel": 1}))
    order = training_order(12, 2, 1, balanced_labels=folder.labels)
    features = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
    sources = (ImageData(folder, 32, 3, training=True, seed=2, balanced=True),
               FeatureData(features, folder.labels, 3, training=True, seed=2, balanced=True))
    for data in sources:
        whole = batches(data, 1)
        assert np.concatenate([labels for _, labels in whole]).tolist() == folder.labels[order].tolist()
        for (inputs, labels), (same, same_labels) in zip(data.epoch(1, first_step=2), whole[2:], strict=True):
            np.testing.assert_array_equal(inputs.asnumpy(), same)
            assert labels.asnumpy().tolist() == same_labels.tolist()
    assert np.concatenate([rows.ravel() for rows, _ in batches(sources[1], 1)]).tolist() == order.tolist()
    views = np.concatenate([view for view, _ in batches(sources[0], 1)])
    assert len({view.tobytes() for view in views}) == 12  # of an image that is drawn again, another view


# ---- one epoch after the other

@dataclass(frozen=True)
class WatchedFolder(ImageFolder):
    """An image folder that notes which images are read."""

    reads: list[int] = field(default_factory=list)

    def encoded(self, position: int) -> np.ndarray:
        self.reads.append(position)
        return super().encoded(position)


@pytest.fixture
def watched(photos: Path) -> WatchedFolder:
    folder = ImageFolder.scan(photos / "train")
    return WatchedFolder(**{part.name: getattr(folder, part.name) for part in dataclasses.fields(folder)})


@pytest.mark.parametrize("batches_per_step", [1, 2, 5])
def test_the_next_epoch_is_begun_before_this_one_ends_and_has_the_same_bits(watched: WatchedFolder,
                                                                            batches_per_step: int) -> None:
    data = ImageData(watched, 32, 4, training=True, seed=3, num_workers=2, epochs=3, batches_per_step=batches_per_step)
    used = 5 // batches_per_step * batches_per_step
    expected = [batches(ImageData(ImageFolder.scan(watched.root), 32, 4, training=True, seed=3, num_workers=2), epoch)
                for epoch in range(3)]
    for epoch in range(3):
        present = data.epoch(epoch)  # held, as by the loop of a training
        for (images, labels), (wanted_images, wanted_labels) in zip(itertools.islice(present, used),
                                                                    expected[epoch], strict=False):
            np.testing.assert_array_equal(images.asnumpy(), wanted_images)
            assert labels.asnumpy().tolist() == wanted_labels.tolist()
        while epoch < 2 and len(watched.reads) <= 20 * (epoch + 1):
            time.sleep(0.01)  # until an image of the next epoch is read, which nobody has asked for
    while len(watched.reads) < 60:
        time.sleep(0.01)  # the batches that fill no step are read, too
    time.sleep(0.2)
    assert len(watched.reads) == 60  # no epoch after the last one is begun


def test_images_grow_over_the_epochs_of_a_training(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    growing = ImageData(folder, 96, 7, training=True, seed=5, epochs=4, first_size=32)
    assert [batches(growing, epoch)[0][0].shape[2:] for epoch in range(4)] == [(32, 32), (64, 64), (64, 64), (96, 96)]
    full_size = ImageData(folder, 96, 7, training=True, seed=5)
    for (images, _), (wanted, _) in zip(batches(growing, 3), batches(full_size, 3), strict=True):
        np.testing.assert_array_equal(images, wanted)
    assert batches(ImageData(folder, 96, 7, training=False, first_size=32))[0][0].shape[2:] == (96, 96)


@pytest.mark.parametrize(("first", "last", "epochs", "sizes"), [
    (128, 192, 5, [128, 128, 160, 192, 192]), (128, 160, 2, [128, 160]), (128, 192, 1, [192]), (64, 64, 3, [64] * 3)])
def test_sizes_are_whole_steps_from_the_first_to_the_last(first: int, last: int, epochs: int,
                                                          sizes: list[int]) -> None:
    assert [growing_size(first, last, epoch, epochs) for epoch in range(epochs)] == sizes


def test_the_next_batches_are_made_while_a_step_runs(watched: WatchedFolder) -> None:
    data = ImageData(watched, 32, 4, training=True, num_workers=2)
    present = data.epoch(0)
    next(present)  # a step works on it now, and nobody asks for another batch
    while len(watched.reads) < 5 * 4:
        time.sleep(0.01)


def test_an_epoch_that_was_begun_is_dropped_if_another_is_wanted(photos: Path) -> None:
    data = ImageData(ImageFolder.scan(photos / "train"), 32, 4, training=True, seed=3, epochs=9)
    whole = batches(data)
    for epoch, first_step in ((0, 2), (1, 1), (0, 0)):
        found = [images.asnumpy() for images, _ in data.epoch(epoch, first_step)]
        expected = whole if epoch == 0 else batches(ImageData(ImageFolder.scan(photos / "train"), 32, 4, training=True,
                                                              seed=3), 1)
        np.testing.assert_array_equal(found, [images for images, _ in expected[first_step:]])


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_resumed_epoch_is_the_same_without_reading_what_is_skipped(ending: str, images: Images) -> None:
    root = images({"cat": 5, "dog": 7}, ending=ending)
    folder = ImageFolder.scan(root)
    data = ImageData(folder, 32, 3, training=True, seed=1, num_workers=2)
    whole = batches(data, 4)
    for position in training_order(12, 1, 4)[:6]:
        path = root / folder.files[position]
        content = path.read_bytes()
        path.write_bytes(content[:content.index({".jpg": b"\xff\xda", ".png": b"IDAT"}[ending]) + 20])
    rest = [(found.asnumpy(), labels.asnumpy()) for found, labels in data.epoch(4, first_step=2)]
    assert len(rest) == 2
    for (found, labels), (expected, expected_labels) in zip(rest, whole[2:], strict=True):
        np.testing.assert_array_equal(found, expected)
        assert labels.tolist() == expected_labels.tolist()
    with pytest.raises(UserError):
        batches(data, 4)


# ---- what goes wrong

@pytest.mark.parametrize("content", [b"", b"this is a text", b"\xff\xd8\xff\xe0 broken"])
@pytest.mark.parametrize("training", [False, True])
def test_an_unreadable_image_is_named_in_one_line(content: bytes, training: bool, images: Images,
                                                    monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    root = images({"cat": 3, "dog": 3})
    (root / "dog" / "bad.jpg").write_bytes(content)
    with pytest.raises(UserError) as error:
        batches(ImageData(ImageFolder.scan(root), 32, 7, training=training))
    assert "\n" not in str(error.value)
    assert "bad.jpg" in str(error.value)


def test_workers_are_capped_at_the_cores(photos: Path) -> None:
    assert usable_workers(1) == 1
    cores = usable_workers(10_000)
    assert 1 <= cores < 10_000
    data = ImageData(ImageFolder.scan(photos / "val"), 32, 9, training=False, num_workers=10_000)
    assert len(batches(data)) == 1


# ---- features in memory

def test_features_keep_the_interface_and_the_order_of_images(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    features = np.arange(21, dtype=np.float32).reshape(21, 1, 1, 1) * np.ones((1, 5, 1, 1), np.float32)
    for training in (True, False):
        images_data = ImageData(folder, 32, 4, training=training, seed=2)
        data = FeatureData(features, folder.labels, 4, training=training, seed=2)
        assert (data.images, data.batch_size, data.steps_per_epoch) == (
            images_data.images, images_data.batch_size, images_data.steps_per_epoch)
        found = batches(data, 1)
        assert [labels.tolist() for _, labels in found] == [labels.tolist() for _, labels in batches(images_data, 1)]
        for values, labels in found:
            assert values.shape == (4, 5, 1, 1)
            rows = values[:, 0, 0, 0].astype(int)
            real = labels != IGNORE_INDEX
            assert folder.labels[rows][real].tolist() == labels[real].tolist()


def test_images_that_vanish_during_a_run_are_missed(images: Images) -> None:
    root = images({"cat": 4, "dog": 4})
    data = ImageData(ImageFolder.scan(root), 32, 4, training=True)
    assert len(list(data.epoch(0))) == 2
    (root / "cat" / "000-new.jpg").write_bytes((root / "cat" / "000.jpg").read_bytes())
    assert np.bincount(np.concatenate([labels for _, labels in batches(data, 1)])).tolist() == [4, 4]
    (root / "cat" / "001.jpg").unlink()
    with pytest.raises(UserError, match="cat/001.jpg: no such file"):
        list(data.epoch(2))
