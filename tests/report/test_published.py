"""Published points: what the package's table holds, and which stand beside which task."""

import pytest

from metaq.experiments.data import datasets
from metaq.experiments.models import models
from metaq.report.published import original_remark, published_points

ALL = [point for network in models for data in datasets for point in published_points(network, data)]


def test_every_point_is_whole():
    assert len({(point.network, point.data, point.method, point.size_bytes) for point in ALL}) == 17
    for point in ALL:
        assert 0.5 < point.accuracy < 1
        assert 1000 < point.size_bytes < 10**6
        assert point.method
        assert point.source
        assert point.year is None or 2015 < point.year < 2030


def test_points_come_by_size():
    points = published_points("lenet5-caffe", "mnist")
    assert [(point.method, point.size_bytes, point.accuracy) for point in points[:3]] == [
        ("MIRACLE, a fork", 1150, 0.9902),
        ("MIRACLE", 1520, 0.9904),
        ("HEMP+LOBSTER", 2000, 0.9905),
    ]
    assert len(points) == 6
    assert published_points("lenet5", "digits") == []


def test_a_copy_of_the_images_has_the_points_of_the_originals():
    copies, originals = published_points("resnet32", "cifar10-jpeg"), published_points("resnet32", "cifar10")
    assert (
        [point.size_bytes for point in copies]
        == [point.size_bytes for point in originals]
        == [86_200, 168_300, 439_400]
    )
    assert {point.remark for point in copies} == {"on the original cifar10"}
    assert {point.remark for point in originals} == {""}
    assert original_remark("cifar10") == ""


@pytest.mark.parametrize(("year", "title"), [(2021, "HEMP, 2021"), (None, "METaQ thesis")])
def test_titles(year, title):
    assert title in {point.title for point in ALL if point.year == year}
