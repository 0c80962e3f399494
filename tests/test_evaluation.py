"""Scores: every image once; the same counts at any batch size."""
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor, nn

from src.data.image_folder import ImageFolder
from src.dataset import FeatureData, ImageData
from src.distributed.world import World
from src.evaluation import evaluate
from src.metrics import EvalResult
from src.mobilenetV2 import MobileNetV2, MobileNetV2Head
from src.models import define_net
from tests.test_metrics import score_of

# Few distinct values, so that ties are common.


class Brightness(nn.Cell):
    """Logits that are the means of the three colour planes: small, but different for every image."""

    def construct(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.fixture(scope="module")
def trained_like() -> MobileNetV2:
    network = define_net(config_for("--width_mult", 0.35), 3)
    weight = network.head.classifier.weight
    weight.set_data(Tensor(np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)))
    return network


def counts(result: EvalResult) -> tuple:
    return result.correct1, result.correct5, result.images, result.confusion.tolist()


@pytest.mark.parametrize("which", ["brightness", "mobilenet"])
def test_same_counts_at_any_batch_size(which: str, photos: Path, trained_like: MobileNetV2) -> None:
    network = Brightness() if which == "brightness" else trained_like
    folder = ImageFolder.scan(photos / "train")
    scores = [evaluate(network, ImageData(folder, 32, size, training=False), World()) for size in (1, 7, 32, 400)]
    assert [counts(result) for result in scores] == [counts(scores[0])] * 4
    assert scores[0].images == 21
    assert scores[0].confusion.sum(axis=1).tolist() == [8, 7, 6]
    for result in scores:
        assert result.loss == pytest.approx(scores[0].loss, rel=1e-4)
        assert set(result.mistakes["position"]) == set(scores[0].mistakes["position"])
    assert len(scores[0].mistakes) == 21 - scores[0].correct1
    for mistake in scores[0].mistakes:
        assert folder.labels[mistake["position"]] == mistake["label"] != mistake["predicted"]


def test_the_right_classes_are_counted(photos: Path) -> None:
    """Brightness takes the strongest plane: blue, green, red are classes 0, 1, 2, planes 2, 1, 0."""
    result = evaluate(Brightness(), ImageData(ImageFolder.scan(photos / "val"), 32, 4, training=False), World())
    assert result.confusion.tolist() == [[0, 0, 3], [0, 4, 0], [2, 0, 0]]
    assert (result.correct1, result.images) == (4, 9)


def test_evaluation_is_repeatable_and_leaves_the_mode(trained_like: MobileNetV2, photos: Path) -> None:
    data = ImageData(ImageFolder.scan(photos / "val"), 32, 4, training=False)
    before = {p.name: p.asnumpy().copy() for p in trained_like.get_parameters()}
    for mode in (True, False):
        trained_like.set_train(mode)
        first, second = evaluate(trained_like, data, World()), evaluate(trained_like, data, World())
        assert counts(first) == counts(second)
        assert first.loss == second.loss  # no dropout
        assert trained_like.training is mode
    for parameter in trained_like.get_parameters():  # no batch norm statistics moved
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_features_are_counted_once_too(batch_size: int) -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((11, 6, 1, 1)).astype(np.float32)
    labels = random.integers(0, 3, 11).astype(np.int32)
    head = MobileNetV2Head(6, 3)
    result = evaluate(head, FeatureData(features, labels, batch_size, training=False), World())
    logits = features[:, :, 0, 0] @ head.classifier.weight.asnumpy().T + head.classifier.bias.asnumpy()
    assert counts(result) == counts(score_of(logits, labels))


def test_a_data_source_that_loses_images_is_noticed() -> None:
    class Loses(FeatureData):
        def epoch(self, epoch: int = 0, first_step: int = 0):  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield from list(super().epoch(epoch))[:-1]

    data = Loses(np.zeros((4, 6, 1, 1), np.float32), np.zeros(4, np.int32), 2, training=False)
    with pytest.raises(AssertionError, match="2 images were scored of 4"):
        evaluate(MobileNetV2Head(6, 3), data, World())


class Meeting:
    """Sums between ranks that are threads."""

    def __init__(self, ranks: int) -> None:
        self._given, self._barrier = [np.empty(0)] * ranks, threading.Barrier(ranks, timeout=60)

    def all_reduce(self, values: np.ndarray, world: World) -> np.ndarray:
        self._given[world.rank] = np.asarray(values, np.float32)
        self._barrier.wait()
        total = np.sum(self._given, axis=0)
        self._barrier.wait()
        return total


@pytest.mark.parametrize(("most", "stride"), [(10 ** 6, 1), (11, 3)])
def test_logits_are_kept_of_the_same_images_on_any_number_of_ranks(most: int, stride: int,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    logits, labels = random.standard_normal((11, 3, 1, 1)).astype(np.float32), random.integers(0, 3, 11, np.int32)
    monkeypatch.setattr("src.metrics.MOST_LOGITS", most)

    class Same(SimpleNamespace):
        def __call__(self, inputs: Tensor) -> Tensor:
            return Tensor(inputs.asnumpy()[:, :, 0, 0])

    for ranks in 1, 2, 3, 12:
        meeting = Meeting(ranks)
        for module in "src.distributed.collectives", "src.evaluation":
            monkeypatch.setattr(f"{module}.all_reduce", meeting.all_reduce)

        def score(rank: int, ranks: int = ranks) -> EvalResult:
            data = FeatureData(logits, labels, 2, training=False, rank=rank, rank_size=ranks)
            return evaluate(Same(training=False, set_train=lambda _: None), data, World(rank, ranks))

        with ThreadPoolExecutor(ranks) as threads:
            results = list(threads.map(score, range(ranks)))
        for result in results:
            assert result.stride == stride
            np.testing.assert_array_equal(result.logits, logits[::stride, :, 0, 0])
            np.testing.assert_array_equal(result.scored["label"], labels[::stride])
            np.testing.assert_array_equal(result.judged, results[0].judged)
