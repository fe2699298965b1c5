"""Sizes and accuracies that others have published, which stand beside a task's results."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib import resources

# Data whose images are those of other data, stored with loss: published points are of the originals.
_ORIGINALS = {"cifar10-jpeg": "cifar10"}


@dataclass(frozen=True)
class PublishedPoint:
    """A compressed network of a publication.

    Attributes:
        size_bytes: its size, as far as the source counts it.
        accuracy: top-1 on the test set, as a share.
        year: of the publication; None where the source has none.
        variant: what it is, if its network is not the one that it stands beside.
        remark: in what it is not comparable.
    """

    network: str
    data: str
    method: str
    size_bytes: int
    accuracy: float
    source: str
    year: int | None = None
    variant: str = ""
    remark: str = ""

    @property
    def title(self) -> str:
        """The source and its year."""
        return self.source if self.year is None else f"{self.source}, {self.year}"


def published_points(network: str, data: str) -> list[PublishedPoint]:
    """The points of a network on data, or on the data's originals, which their remarks then say; by size."""
    text = (resources.files("metaq.report") / "published.toml").read_text(encoding="utf-8")
    points = [PublishedPoint(**entry) for entry in tomllib.loads(text)["point"]]
    original = _ORIGINALS.get(data, data)
    found = [point for point in points if (point.network, point.data) == (network, original)]
    difference = original_remark(data)
    return [
        replace(point, remark="; ".join(filter(None, (point.remark, difference))))
        for point in sorted(found, key=lambda point: point.size_bytes)
    ]


def original_remark(data: str) -> str:
    """On what published points of these data were measured instead; empty where it is the same."""
    return f"on the original {_ORIGINALS[data]}" if data in _ORIGINALS else ""
