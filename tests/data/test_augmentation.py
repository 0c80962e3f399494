"""What training does to images: each key's arithmetic, and that it touches nothing else."""
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from conftest import Images, config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn
from PIL import Image

from src.data.auto_augment import auto_augment
from src.data.image_folder import ImageFolder
from src.data.mixing import cutmix, erase, mixup, shrink
from src.data.transforms import IMAGENET, Augmentation, train_sizes, train_transforms
from src.dataset import ImageData, training_order
from src.errors import UserError
from src.mobilenetV2 import ConvBN, InvertedResidual, MobileNetV2Head
from src.models import CrossEntropyWithLabelSmooth
from src.training.optimizer import build_optimizer
from src.training.step import TrainStep
from tests.test_dataset import batches

EVERYTHING: dict[str, Any] = {
    "auto_augment": "randaugment", "random_erasing": 0.5, "mixup_alpha": 0.4, "cutmix_alpha": 1.0,
    "multi_scale_min": 32, "multi_scale_max": 96, "aug_repeats": 2,
}

Found = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def train_folder(photos: Path) -> ImageFolder:
    return ImageFolder.scan(photos / "train")


def made(folder: ImageFolder, epoch: int = 0, rank: int = 0, ranks: int = 1, **keys: Any) -> Found:
    """The batches of an epoch: five of 4 images of 32 pixels, from two threads."""
    data = ImageData(folder, 32, 4, training=True, seed=3, num_workers=2, rank=rank, rank_size=ranks,
                     augmentation=Augmentation(**keys))
    return batches(data, epoch)


def assert_same(found: Found, expected: Found) -> None:
    assert len(found) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


# ---- mixing: images that are their own one-hot target in every pixel must stay so

def one_hot_images(labels: list[int], height: int = 12, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    targets = np.eye(3, dtype=np.float32)[labels]
    return np.broadcast_to(targets[:, :, None, None], (len(labels), 3, height, width)).copy(), targets


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.sampled_from([0.1, 0.4, 1.0, 8.0]),
       st.integers(0, 2 ** 31), st.sampled_from([mixup, cutmix]))
def test_targets_are_the_shares_of_the_pixels(labels, alpha, seed, mix) -> None:  # type: ignore[no-untyped-def]
    images, targets = mix(*one_hot_images(labels), alpha, np.random.default_rng(seed))
    assert images.dtype == targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(images.mean(axis=(2, 3)), targets, atol=1e-5)


def test_mixup_blends_every_pixel_alike_and_cutmix_none() -> None:
    generator = np.random.default_rng(0)
    blended, targets = mixup(*one_hot_images([0, 1, 2]), 1.0, generator)
    np.testing.assert_allclose(blended, np.broadcast_to(targets[:, :, None, None], blended.shape), atol=1e-6)
    pasted, _ = cutmix(*one_hot_images([0, 1, 2] * 4), 1.0, generator)
    assert set(np.unique(pasted)) == {0.0, 1.0}
    other = (pasted != one_hot_images([0, 1, 2] * 4)[0]).any(axis=(0, 1))
    rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
    assert other[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].all()  # a box


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_come_from_the_beta_distribution(alpha: float) -> None:
    generator = np.random.default_rng(1)
    own = np.zeros((2, 1, 1, 1), np.float32), np.eye(2, dtype=np.float32)
    shares: list[float] = []
    while len(shares) < 2000:
        _, targets = mixup(own[0].copy(), own[1].copy(), alpha, generator)
        if (targets != np.eye(2)).any():  # else each met itself
            shares.append(targets[0, 0])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.015)


def test_cutmix_pastes_what_was_drawn_less_what_lies_outside() -> None:
    pasted = [cutmix(*one_hot_images([0, 1], 64, 64), 1.0, np.random.default_rng(seed))[1][0, 1]
              for seed in range(3000)]
    # A box of side s, around any point of a unit square, keeps s (1 - s / 4) of a side in the mean. Beta(1, 1) draws
    # its area evenly; half of the time the other image of the two is pasted.
    sides = np.sqrt(np.linspace(0, 1, 10001))
    assert np.mean(pasted) == pytest.approx(0.5 * np.mean((sides * (1 - sides / 4)) ** 2), abs=0.015)


# ---- erasing

def test_erasing_sets_one_rectangle_of_the_published_size_to_zero() -> None:
    erased, shares = 0, []
    for seed in range(60):
        images = np.ones((8, 3, 40, 50), np.float32)
        erase(images, 0.25, np.random.default_rng(seed))
        for image in images:
            assert (image == image[0]).all()
            hole = image[0] == 0
            if not hole.any():
                continue
            erased += 1
            rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
            assert hole[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].all()
            shares.append(hole.mean())
            assert 0.3 * 0.75 < len(rows) / len(columns) < 3.3 * 1.34  # rounding to pixels
    assert erased / 480 == pytest.approx(0.25, abs=0.06)
    assert min(shares) > 0.015
    assert max(shares) < 0.35
    assert np.mean(shares) == pytest.approx(0.17, abs=0.03)


# ---- sizes

@pytest.mark.parametrize(("old", "new"), [(64, 32), (96, 64), (160, 96), (64, 64)])
def test_a_smaller_pixel_is_the_mean_of_what_it_covers(old: int, new: int) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, old, old)).astype(np.float32)
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    covered = np.clip(np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None]), 0, None)
    weights = covered / covered.sum(axis=1, keepdims=True)
    found = shrink(images, new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights @ images @ weights.T, atol=1e-5)


def test_every_size_of_the_range_comes_up_the_same_on_all_ranks(train_folder: ImageFolder) -> None:
    keys: dict[str, Any] = {"multi_scale_min": 32, "multi_scale_max": 96}
    ranks = [[images.shape for epoch in range(4) for images, _ in made(train_folder, epoch, rank, 2, **keys)]
             for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert set(ranks[0]) == {(4, 3, size, size) for size in (32, 64, 96)}


def test_the_largest_size_is_the_plain_view_and_smaller_ones_are_shrunk_from_it(train_folder: ImageFolder) -> None:
    data = ImageData(train_folder, 96, 4, training=True, seed=3, num_workers=2)
    for (found, _), (view, _) in zip(made(train_folder, multi_scale_min=32, multi_scale_max=96), batches(data),
                                     strict=True):
        np.testing.assert_array_equal(found, shrink(view, found.shape[-1]))


def test_evaluation_keeps_its_size(train_folder: ImageFolder) -> None:
    data = ImageData(train_folder, 32, 4, training=False, augmentation=Augmentation(**EVERYTHING))
    assert_same(batches(data), batches(ImageData(train_folder, 32, 4, training=False)))


# ---- drawn changes of colour and shape

@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """An image in which every change shows: uneven brightness, all colours, none of them the grey that fills in."""
    pixels = np.random.default_rng(5).integers(20, 236, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))


def drawn(name: str, image: np.ndarray, count: int) -> np.ndarray:
    ds.config.set_seed(1)
    pipeline = ds.NumpySlicesDataset(np.arange(count), ["image"], shuffle=False)
    pipeline = pipeline.map(lambda _: image, "image").map(auto_augment(name), "image", num_parallel_workers=1)
    return np.stack([row[0] for row in pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)])


@pytest.mark.parametrize(("name", "distinct", "unchanged"), [
    ("autoaugment", 40, (0.05, 0.3)),
    ("randaugment", 150, (1 / 14 ** 2 / 3, 0.04)),  # the identity twice, or changes that do nothing to this image
    ("trivialaugment", 200, (1 / 14, 0.2)),
])
def test_draws_are_many_and_none_loses_the_image(name: str, distinct: int, unchanged: tuple[float, float],
                                                   texture: np.ndarray) -> None:
    found = drawn(name, texture, 1500)
    assert found.dtype == np.uint8
    assert found.shape == (1500, 32, 32, 3)
    assert len(np.unique(found.reshape(1500, -1), axis=0)) > distinct
    assert unchanged[0] < (found == texture).all(axis=(1, 2, 3)).mean() < unchanged[1]
    # MindSpore's own RandAugment and TrivialAugmentWide turn one image in eight into a grey area.
    assert (found.std(axis=(1, 2)).max(axis=1) < 2).mean() < 0.005


def test_randaugment_applies_two_different_changes(texture: np.ndarray) -> None:
    """A shift in both directions is a pair of two changes: grey comes in from two sides."""
    grey = (np.abs(drawn("randaugment", texture, 1500).astype(int) - 115) <= 1).all(axis=3)
    rows, columns = grey.mean(axis=2) > 0.9, grey.mean(axis=1) > 0.9
    assert (rows.any(axis=1) & columns.any(axis=1)).mean() == pytest.approx(2 / 14 ** 2, abs=0.008)


# ---- each key leaves the rest alone, bit for bit

def test_switched_off_is_the_published_transform(train_folder: ImageFolder) -> None:
    assert Augmentation.of(config_for()) == IMAGENET
    assert not IMAGENET.changes_batches
    assert [type(step).__name__ for step in train_transforms(32, IMAGENET)] == [
        "RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]


def test_auto_augment_takes_the_place_of_the_colour_jitter(train_folder: ImageFolder) -> None:
    plain = made(train_folder, color_jitter=0.0)
    found = made(train_folder, auto_augment="trivialaugment")
    assert_same(found, made(train_folder, auto_augment="trivialaugment", color_jitter=0.0))
    same = [(own == other).all() for (images, _), (others, _) in zip(found, plain, strict=True)
            for own, other in zip(images, others, strict=True)]
    assert 0 < sum(same) < 10  # of 20: crop and mirror are the same, the colour change sometimes none


def test_erasing_leaves_all_other_pixels(train_folder: ImageFolder) -> None:
    erased = 0
    for (images, labels), (expected, expected_labels) in zip(made(train_folder, random_erasing=0.5),
                                                             made(train_folder), strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        assert ((images == expected) | (images == 0)).all()
        erased += sum((own != other).any() for own, other in zip(images, expected, strict=True))
    assert 5 <= erased <= 15  # of 20


def test_of_mixup_and_cutmix_each_batch_gets_one_as_if_it_were_alone(train_folder: ImageFolder) -> None:
    alone = [made(train_folder, mixup_alpha=0.4), made(train_folder, cutmix_alpha=1.0)]
    both = [which for (images, labels), *others in zip(made(train_folder, mixup_alpha=0.4, cutmix_alpha=1.0), *alone,
                                                       strict=True)
            for which, (expected, targets) in enumerate(others)
            if (images == expected).all() and (labels == targets).all()]
    assert len(both) == 5
    assert set(both) == {0, 1}


def test_mixing_uses_the_images_of_the_batch(train_folder: ImageFolder) -> None:
    for (images, targets), (own, labels) in zip(made(train_folder, mixup_alpha=0.4), made(train_folder), strict=True):
        assert targets.shape == (4, 3)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        # Blends of the four, by shares whose labels give the targets.
        shares, rest, *_ = np.linalg.lstsq(own.reshape(4, -1).T, images.reshape(4, -1).T, rcond=None)
        assert rest.max() < 1e-3
        np.testing.assert_allclose(shares.T @ np.eye(3)[labels], targets, atol=1e-3)


def test_repeats_stand_side_by_side_and_an_epoch_keeps_its_length() -> None:
    order = training_order(23, seed=1, epoch=2, repeats=3)
    assert order.tolist() == np.repeat(training_order(23, 1, 2), 3)[:23].tolist()
    shares = [training_order(23, 1, 2, rank, 3, repeats=3) for rank in range(3)]
    assert shares[0].tolist() == shares[1].tolist() == [*shares[2], shares[0][-1]]  # a view on each rank
    assert np.bincount(order).max() == 3


def test_repeated_images_are_different_views(train_folder: ImageFolder) -> None:
    (images, labels), *_ = made(train_folder, aug_repeats=2)
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert len({image.tobytes() for image in images}) == 4


# ---- what follows from what

def test_same_seed_and_epoch_give_the_same_batches_and_a_resumed_epoch_the_rest(train_folder: ImageFolder) -> None:
    whole = made(train_folder, 5, **EVERYTHING)
    assert_same(made(train_folder, 5, **EVERYTHING), whole)
    data = ImageData(train_folder, 32, 4, training=True, seed=3, num_workers=2,
                     augmentation=Augmentation(**EVERYTHING))
    rest = [(images.asnumpy(), labels.asnumpy()) for images, labels in data.epoch(5, first_step=3)]
    assert_same(rest, whole[3:])
    assert all((images[0].shape != others[0].shape) or (images[0] != others[0]).any()
               for images, others in zip(whole, made(train_folder, 6, **EVERYTHING), strict=True))


def test_each_rank_mixes_its_own_batch_in_its_own_way(train_folder: ImageFolder) -> None:
    shares = [made(train_folder, rank=rank, ranks=2, mixup_alpha=1.0)[0][1].max() for rank in range(2)]
    assert shares[0] != shares[1]


# ---- what cannot be

@pytest.mark.parametrize(("low", "high"), [(64, 0), (0, 64), (96, 64)])
def test_a_range_of_sizes_that_is_none(low: int, high: int) -> None:
    with pytest.raises(UserError, match=f"multi_scale_min {low} and multi_scale_max {high} are no range"):
        Augmentation.of(config_for("--multi_scale_min", low, "--multi_scale_max", high))


@pytest.mark.parametrize(("options", "sizes"), [
    ((), (224, 224)), (("--train_image_size", 192), (192, 192)), (("--train_image_size_start", 128), (128, 224)),
    (("--train_image_size", 192, "--train_image_size_start", 96), (96, 192)),
    (("--train_image_size", 192, "--multi_scale_min", 64, "--multi_scale_max", 256), (64, 256)),
    (("--train_image_size", 192, "--freeze_layer", "backbone"), (224, 224))])
def test_sizes_of_training_images(options: tuple[object, ...], sizes: tuple[int, int]) -> None:
    assert train_sizes(config_for(*options)) == sizes


def test_images_that_would_shrink_are_refused() -> None:
    with pytest.raises(UserError, match="train_image_size_start is 224, but the images can only grow, to 192 pixels"):
        Augmentation.of(config_for("--train_image_size", 192, "--train_image_size_start", 224))


@pytest.mark.parametrize("options", [("--mixup_alpha", 0.2), ("--auto_augment", "randaugment"),
                                     ("--multi_scale_min", 64, "--multi_scale_max", 64),
                                     ("--aug_repeats", 3)])
def test_a_frozen_backbone_is_shown_no_augmented_images(options: tuple[object, ...]) -> None:
    name = str(options[-2]).removeprefix("--")
    with pytest.raises(UserError, match=f"computes each image's features once.*: leave out {name}, or train"):
        Augmentation.of(config_for("--freeze_layer", "backbone", *options))
    # These are told by their help texts to be without effect there, and have defaults.
    Augmentation.of(config_for("--freeze_layer", "backbone", "--crop_scale", 0.5, "--flip", 0, "--color_jitter", 0))


def test_a_single_image_and_a_single_class_can_be_mixed(images: Images) -> None:
    folder = ImageFolder.scan(images({"cat": 1, "dog": 1}))
    data = ImageData(folder, 32, 1, training=True, augmentation=Augmentation(mixup_alpha=1.0, cutmix_alpha=1.0))
    assert sorted(labels.argmax() for _, labels in batches(data)) == [0, 1]


def test_an_unreadable_image_is_named_in_one_line_beside_mixing(images: Images, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MindSpore leaves a copy of such an image
    root = images({"cat": 3, "dog": 3})
    (root / "dog" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    data = ImageData(ImageFolder.scan(root), 32, 7, training=True, augmentation=Augmentation(mixup_alpha=1.0))
    with pytest.raises(UserError) as error:
        batches(data)
    assert "\n" not in str(error.value)
    assert "bad.jpg" in str(error.value)


# ---- a step on batches of several sizes

class SmallNetwork(nn.Cell):
    """The parts of a MobileNetV2, few of them: compiling takes the time here."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = ConvBN(3, 8, kernel_size=3, stride=2), InvertedResidual(8, 8, 1, expand_ratio=2)
        self.head = MobileNetV2Head(8, 3, dropout=0.0)

    def construct(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.stem(images)))


def test_steps_on_batches_of_other_sizes_and_kinds_of_targets_are_those_of_a_step_made_for_them() -> None:
    generator = np.random.default_rng(0)
    labels, shares = np.array([0, 1, 2, 1], np.int32), np.full((4, 3), 1 / 3, np.float32)
    sizes_and_targets = (32, labels), (64, labels), (64, shares), (32, labels)
    sequence = [(Tensor(generator.standard_normal((4, 3, size, size)).astype(np.float32)), Tensor(targets))
                for size, targets in sizes_and_targets]
    losses: dict[str, list[float]] = {}
    kept = []  # MindSpore takes a new cell for an old one that was at the same address
    for name, made_for in ("one", [0, 0, 0, 0]), ("own", [0, 1, 2, 0]):
        ms.set_seed(1)
        network = SmallNetwork()
        config = config_for()
        optimizer = build_optimizer(network, np.full(4, 0.1, np.float32), config)
        steps = [TrainStep(network, CrossEntropyWithLabelSmooth(0.1), optimizer, config)
                 for _ in range(max(made_for) + 1)]
        kept.append(steps)
        losses[name] = []
        for number, batch in zip(made_for, sequence, strict=True):
            steps[number].set_train()
            losses[name].append(float(steps[number](*batch)[0].asnumpy()))
    assert losses["one"] == losses["own"]
    assert len(set(losses["one"])) == 4
