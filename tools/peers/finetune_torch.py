"""Plain fine-tuning in PyTorch, to compare with: SGD, a cosine, random crops; run by tools/accuracy_over_minutes.py.

    python tools/peers/finetune_torch.py --dataset_path photos --weights mobilenet_v2.pth --epochs 8 --lr 0.01

The recipe is that of PyTorch's own tutorials: momentum 0.9, weight decay 4e-5, crops of 8 to 100 % of an image, 32
images a step. Its environment is that of torch.txt.
"""
import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.errors import run_command
from tools.peers.torch_network import MobileNetV2

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SIZE, CROP_PCT = 224, 0.875  # pixels, and the share of the shorter side that evaluation sees
SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of random crops
BATCH_SIZE = 32


class Photos(Dataset):
    """The images of a folder with a folder for each class: 3 x SIZE x SIZE float32, and the number of the class."""

    def __init__(self, root: Path, training: bool, seed: int) -> None:
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self._items = [(path, label) for label, name in enumerate(self.classes)
                       for path in sorted((root / name).iterdir())]
        self._training, self._random = training, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._items[index]
        image = Image.open(path).convert("RGB")
        if self._training:
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, random_box(*image.size, self._random))
            if self._random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        else:
            side = min(image.size) * CROP_PCT
            left, top = ((length - side) / 2 for length in image.size)
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(pixels.transpose(2, 0, 1)), label


def random_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop; the whole image if none fits in TRIES."""
    for _ in range(TRIES):
        area = width * height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def trained_network(weights: Path, classes: int) -> MobileNetV2:
    """A network with torchvision's trained weights, but for the classifier. Both have them in the same order."""
    network = MobileNetV2(classes, dropout=0.2)
    trained = torch.load(weights, weights_only=True)
    backbone = [value for name, value in trained.items() if name.startswith("features")
                and not name.endswith("num_batches_tracked")]
    names = [name for name in network.state_dict() if name.startswith("backbone")
             and not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, backbone, strict=True)), strict=False)
    return network.to(memory_format=torch.channels_last)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says, and print the top-1 of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision's file of ImageNet weights")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate at the beginning of the cosine")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    photos, checks = (Photos(options.dataset_path / part, part == "train", options.seed) for part in ("train", "val"))
    batches = DataLoader(photos, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    network = trained_network(options.weights, len(photos.classes))
    optimizer = torch.optim.SGD(network.parameters(), options.lr, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(batches))
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(options.epochs):
        network.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss_fn(network(images.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            right = sum(int((network(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum())
                        for images, labels in DataLoader(checks, BATCH_SIZE, num_workers=1))
        print(f"top-1 {right / len(checks):.4f}", flush=True)


if __name__ == "__main__":
    run_command(main)
