"""Weights with a name: fetched from their publisher once, and kept in the cache folder."""
from dataclasses import dataclass
from pathlib import Path

from src.cache_folder import cache_folder
from src.download import check_digest, fetch
from src.errors import UserError

TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
TORCHVISION = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Published:
    """A file that anybody may fetch. By PyTorch's custom its name ends with the first 8 digits of its SHA-256."""

    url: str

    @property
    def file_name(self) -> str:
        """The publisher's name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first 8 hexadecimal digits of the SHA-256."""
        return self.file_name.rpartition(".")[0].rpartition("-")[2]


PUBLISHED = {
    "imagenet": Published(f"{TORCHVISION}/mobilenet_v2-b0353104.pth"),
    "torchvision/mobilenet_v2.v1": Published(f"{TORCHVISION}/mobilenet_v2-b0353104.pth"),
    "torchvision/mobilenet_v2.v2": Published(f"{TORCHVISION}/mobilenet_v2-7ebf99e0.pth"),
    "timm/mobilenetv2_050": Published(f"{TIMM}/mobilenetv2_050-3d30d450.pth"),
    "timm/mobilenetv2_100": Published(f"{TIMM}/mobilenetv2_100_ra-b33bc2c4.pth"),
    "timm/mobilenetv2_140": Published(f"{TIMM}/mobilenetv2_140_ra-21a4e913.pth"),
}
PUBLISHERS = ("torchvision/", "timm/")


def is_published(name: str) -> bool:
    """Whether a name is meant for published weights. A file of that name comes first."""
    return (name in PUBLISHED or name.startswith(PUBLISHERS)) and not Path(name).is_file()


def fetch_published(name: str) -> Path:
    """The file with the weights of a published name. Without a network if it is in the cache folder.

    Raises:
        UserError: there are no weights of this name; or they cannot be fetched, or are not what was published.
    """
    if name not in PUBLISHED:
        raise UserError(f"{name}: no weights of this name are known; there are {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    try:
        path = cache_folder("weights") / published.file_name
    except OSError as error:
        raise UserError(f"{name}: no cache folder to keep these weights in: {error}") from error
    fetch(published.url, path, published.sha256)
    check_digest(path, published.sha256)
    return path
