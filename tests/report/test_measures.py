"""What a task is measured by."""

from metaq.experiments.data import TEXTS, datasets
from metaq.report.measures import ACCURACY, LOSS, measure_of


def test_texts_have_a_loss_and_images_an_accuracy():
    assert set(datasets) > TEXTS
    assert measure_of("tinyshakespeare") is LOSS
    assert {measure_of(name) for name in datasets if name not in TEXTS} == {ACCURACY}


def test_values_for_people():
    assert (ACCURACY.text(0.99066), ACCURACY.difference_text(0.0012)) == ("99.07%", "0.12")
    assert (LOSS.text(1.4567891), LOSS.difference_text(0.0012)) == ("1.4568", "0.0012")
