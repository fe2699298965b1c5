"""Models of Hugging Face folders, and the batches that data becomes for them."""

import json
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import metaq
from metaq.errors import InputError

transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")

import hugging_face_folders as folders  # noqa: E402

from metaq.integrations.calibration_data import load, view_box  # noqa: E402

CLS, SEP, PAD = (folders.VOCABULARY[token] for token in ("[CLS]", "[SEP]", "[PAD]"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of each kind."""
    path = tmp_path_factory.mktemp("models")
    folders.bert(path / "bert")
    folders.gpt2(path / "gpt2")
    folders.vit(path / "vit")
    return path


def written(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def tokens(*texts):
    return [[folders.VOCABULARY[word] for word in text.split()] for text in texts]


def test_windows_of_running_text(place, tmp_path):
    lines = folders.texts(100)
    model, batches = load(place / "gpt2", written(tmp_path / "x.txt", lines), samples=20, window=16)
    assert type(model) is transformers.GPT2LMHeadModel
    assert not model.training
    rows = torch.cat([batch["input_ids"] for batch in batches])
    assert rows.shape == (20, 16)
    assert rows[:, 0].eq(CLS).all()
    assert rows[:, 1:].flatten().tolist() == list(chain(*tokens(*lines)))[: 20 * 15]
    assert metaq.calibrate(model, batches).samples == 20


def test_windows_are_as_long_as_the_model_takes_and_as_many_as_there_are(place, tmp_path):
    lines = folders.texts(100)
    _, batches = load(place / "gpt2", written(tmp_path / "x.txt", lines))
    count = len(list(chain(*tokens(*lines)))) // 63
    assert torch.cat([batch["input_ids"] for batch in batches]).shape == (count, 64)


def test_documents_follow_each_other(place, tmp_path):
    first, second = "the cat sat .", "a dog ran to the house ."
    lines = [json.dumps({"text": first}), "", json.dumps({"messages": [{"role": "user", "content": second}]})]
    _, batches = load(place / "gpt2", written(tmp_path / "x.jsonl", lines), window=14)
    of_first, of_second = tokens(first, second)
    assert batches[0]["input_ids"].tolist() == [[CLS, *of_first, SEP, *of_second, SEP]]


def test_sentences_in_padded_batches(place, tmp_path):
    lines = folders.texts(60)
    model, batches = load(place / "bert", written(tmp_path / "x.txt", ["", *lines, "  "]), samples=30)
    assert type(model) is transformers.BertForMaskedLM
    found = []
    for batch in batches:
        mask = batch["attention_mask"].bool()
        assert batch["input_ids"][~mask].eq(PAD).all()
        found += [row[kept].tolist() for row, kept in zip(batch["input_ids"], mask, strict=True)]
    assert sorted(found) == sorted([CLS, *row, SEP] for row in tokens(*lines[::2]))
    assert metaq.calibrate(model, batches).samples == 30


def test_sentences_are_cut(place, tmp_path):
    lines = [json.dumps({"text": "the cat sat on a mat"})] * 3
    _, batches = load(place / "bert", written(tmp_path / "x.jsonl", lines), window=5)
    assert [batch["input_ids"].shape for batch in batches] == [(3, 5)]


def test_a_model_without_its_head_is_still_read_windows(tmp_path):
    folder = folders.gpt2(tmp_path / "gpt2", is_base=True)
    content = json.loads((folder / "config.json").read_text()) | {"architectures": ["GPT2Model"]}
    (folder / "config.json").write_text(json.dumps(content))
    model, batches = load(folder, written(tmp_path / "x.txt", folders.texts(9)), window=8)
    assert type(model) is transformers.GPT2Model
    assert "attention_mask" not in batches[0]


def test_without_architectures_a_general_class_is_taken(tmp_path):
    folder = folders.gpt2(tmp_path / "gpt2")
    content = json.loads((folder / "config.json").read_text())
    del content["architectures"]
    (folder / "config.json").write_text(json.dumps(content))
    assert type(load(folder, written(tmp_path / "x.txt", folders.texts(20)))[0]) is transformers.GPT2LMHeadModel


def test_images(place, tmp_path):
    data = folders.images(tmp_path / "images", 20)
    model, batches = load(place / "vit", data, samples=20)
    assert [tuple(batch["pixel_values"].shape) for batch in batches] == [(16, 3, 16, 16), (4, 3, 16, 16)]
    _, few = load(place / "vit", data, samples=5)
    assert torch.equal(few[0]["pixel_values"], torch.cat([batch["pixel_values"] for batch in batches])[::4])
    assert metaq.calibrate(model, batches).samples == 20


def test_few_images_are_seen_in_several_views(place, tmp_path):
    data = folders.images(tmp_path / "images", 3)
    views = torch.cat([batch["pixel_values"] for batch in load(place / "vit", data, samples=40)[1]])
    assert len(views) == 40
    _, whole = load(place / "vit", data, samples=3)
    assert torch.equal(views[[0, 14, 27]], whole[0]["pixel_values"])  # each before parts of it
    assert len(views.flatten(1).unique(dim=0)) > 30
    assert torch.equal(views, torch.cat([batch["pixel_values"] for batch in load(place / "vit", data, samples=40)[1]]))
    assert sum(len(batch["pixel_values"]) for batch in load(place / "vit", data)[1]) == 512


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99))
def test_views_lie_within_their_images(width, height, seed):
    left, top, right, bottom = view_box(width, height, torch.Generator().manual_seed(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if min(width, height) > 50:
        assert 0.25 <= (right - left) * (bottom - top) / (width * height) <= 1


def test_weights_are_float32_whatever_the_file_has(tmp_path):
    folder = folders.bert(tmp_path / "bert", dtype=torch.bfloat16)
    model, _ = load(folder, written(tmp_path / "x.txt", folders.texts(3)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_are_not_there_are_reported(tmp_path, caplog):
    folder = folders.bert(tmp_path / "bert", "BertModel")
    content = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(content))
    load(folder, written(tmp_path / "x.txt", folders.texts(3)))
    assert "expected all weights of BertForMaskedLM, found none for cls." in caplog.text


@pytest.mark.parametrize(
    ("kind", "name", "content", "options", "message"),
    [
        ("gpt2", "x.txt", "", {}, "x.txt: expected text, found none"),
        ("bert", "x.txt", " \n\n", {}, "x.txt: expected text, found none"),
        ("gpt2", "x.txt", "the cat", {}, "at least a window of 64 tokens, found 3; a shorter window"),
        ("gpt2", "x.txt", "the cat", {"window": 65}, "window: expected at most the 64 tokens .* found 65"),
        ("gpt2", "x.txt", "the cat", {"window": 1}, "window: expected at least 2 tokens, found 1"),
        ("bert", "x.txt", "the cat", {"window": 33}, "window: expected at most the 32 tokens"),
        ("bert", "x.txt", b"\xff\xfe", {}, "x.txt: expected text in UTF-8, found"),
        ("gpt2", "x.jsonl", '{"text": "a"}\n{"body": 1}', {}, "x.jsonl, line 2: expected an object .* found 'body'"),
        ("gpt2", "x.jsonl", "{}", {}, "x.jsonl, line 1: .* found no field"),
        ("bert", "x.jsonl", "[1]", {}, "x.jsonl, line 1: .* found list"),
        ("bert", "x.jsonl", '\n{"text', {}, "x.jsonl, line 2: expected a JSON object, found"),
        ("bert", "x.jsonl", '{"messages": [1]}', {}, "line 1: expected messages that the chat template takes"),
        (
            "bert",
            "x.csv",
            "a",
            {},
            "x.csv: expected a file ending in .txt or .jsonl, or a folder of images, found .csv",
        ),
        ("bert", "none.txt", None, {}, "none.txt: expected data to calibrate with, found no such file or folder"),
        ("vit", "x.txt", "a", {}, "vit: expected a tokenizer, such as tokenizer.json, for text, found none"),
    ],
)
def test_text_that_is_refused(place, tmp_path, kind, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message) as caught:
        load(place / kind, tmp_path / name, **options)
    assert "\n" not in str(caught.value)


def test_images_that_are_refused(place, tmp_path):
    with pytest.raises(InputError, match=r"expected images, such as .* found none"):
        load(place / "vit", tmp_path)
    data = folders.images(tmp_path / "images", 3)
    with pytest.raises(InputError, match="window: expected none for images, found 4"):
        load(place / "vit", data, window=4)
    with pytest.raises(InputError, match=r"bert: expected an image processor, preprocessor_config\.json"):
        load(place / "bert", data)
    (data / "z.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"z\.png: expected an image, found UnidentifiedImageError"):
        load(place / "vit", data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "sphinx"},
            "config.json: expected a model that transformers .* has, found ValueError: .*sphinx",
        ),
        ({"architectures": ["Sphinx"]}, "config.json: expected an architecture that transformers .* has, found Sphinx"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "expected a model with weights of floating point",
        ),
        ({"hidden_size": 64}, "bert: expected a BertForMaskedLM that loads, found"),
    ],
)
def test_folders_that_are_refused(tmp_path, change, message):
    folder, data = folders.bert(tmp_path / "bert"), written(tmp_path / "x.txt", ["the cat"])
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load(folder, data)
    place.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: expected a model that transformers"):
        load(folder, data)
    place.unlink()
    with pytest.raises(InputError, match=r"expected config\.json, which says what model it is, found no such file"):
        load(folder, data)


def test_models_of_encoder_and_decoder_are_refused(tmp_path):
    config = transformers.T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2, vocab_size=16)
    folder = folders.save(tmp_path / "t5", transformers.T5ForConditionalGeneration(config), folders.of_sentences())
    with pytest.raises(InputError, match="T5ForConditionalGeneration: expected a model that takes one text"):
        load(folder, written(tmp_path / "x.txt", ["the cat"]))
