"""Checkpoints to a chosen error or size: every dial is met, what is kept is kept, what is rounded is close."""

import math

import pytest
import torch

import metaq
from metaq import metrics
from metaq.checkpoints import CompressionConfig, compress_state_dict, sample
from metaq.checkpoints.checkpoint import Checkpoint
from metaq.checkpoints.config import QUALITIES
from metaq.checkpoints.sample import Sample
from metaq.cli.options import parse_bits, parse_size
from metaq.coding import base as coding_base
from metaq.compressed_model import CodedTensor, encode, read_model
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.quantizers.rounding import round_as_float16
from metaq.tensors import load_tensors


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator)

    tied = normal(30, 40)
    return {
        "conv.weight": normal(24, 16, 3, 3, scale=0.1),
        "conv.bias": normal(24),
        "norm.half": normal(24).half(),
        "head.weight": normal(50, 100, scale=0.3),
        "half.weight": normal(60, 40, scale=0.5).to(torch.bfloat16),
        "embedding.weight": tied,
        "tied.weight": tied,
        "steps": torch.tensor(7),
        "scale": torch.tensor(0.1),
    }


STATE = network()
QUANTIZED = [name for name, tensor in STATE.items() if tensor.ndim >= 2]


def error(state, loaded, names=QUANTIZED):
    """Over distinct tensors."""
    names = [name for name in names if name != "tied.weight"]
    flat = [torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (state, loaded)]
    return metrics.relative_squared_error(*flat)


def coded_bits(model):
    """Bits per quantized weight in the file that the model makes."""
    chunk = Reader(encode(model)).header.chunks[0]
    return 8 * chunk.payload_bytes / chunk.symbols if chunk.symbols else 0


@pytest.mark.parametrize("limit", [1e-4, 1e-3, 2e-2, 0.3])
def test_error_is_met(limit):
    model = compress_state_dict(STATE, CompressionConfig(max_error=limit))
    found = error(STATE, load_tensors(Reader(encode(model))))
    assert 0.99 * limit <= found <= limit
    assert len({entry.codebook for entry in model.tensors.values() if isinstance(entry, CodedTensor)}) == 2


@pytest.mark.parametrize("dial", [{"max_error": 5e-3}, {"bits": 3.0}, {"size_bytes": 6000}])
def test_many_weights_in_many_chunks(monkeypatch, dial):
    passes = []

    def noted(what, work):
        return lambda *arguments: passes.append(what) or work(*arguments)

    monkeypatch.setattr(sample, "SAMPLE_WEIGHTS", 3000)
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 2000)
    monkeypatch.setattr(Sample, "measure", noted("sample", Sample.measure))
    monkeypatch.setattr(Checkpoint, "_measure", noted("all", Checkpoint._measure))
    model = compress_state_dict(STATE, CompressionConfig(**dial))
    assert passes[0] == "sample"
    assert passes == sorted(passes, reverse=True)
    assert passes.count("all") <= 4
    if "max_error" in dial:
        assert 0.99 * dial["max_error"] <= error(STATE, model.decompress()) <= dial["max_error"]
    if "size_bytes" in dial:
        assert 0.99 * dial["size_bytes"] <= len(encode(model)) <= dial["size_bytes"]


@pytest.mark.parametrize("quality", QUALITIES)
def test_quality_is_an_error(quality):
    found = error(STATE, compress_state_dict(STATE, CompressionConfig(quality=quality)).decompress())
    assert 0.99 * QUALITIES[quality] <= found <= QUALITIES[quality]


@pytest.mark.parametrize(("size", "coder"), [(2000, "mixing"), (6000, "mixing"), (9000, "rans"), (7000, "huffman")])
def test_size_is_met(tmp_path, size, coder):
    metadata = {"recipe": "none " * 20}
    model = compress_state_dict(STATE, CompressionConfig(size_bytes=size, coder=coder), metadata)
    assert 0.99 * size <= metaq.save(model, tmp_path / "x.mtq", coder) <= size
    assert model.metadata == metadata


@pytest.mark.parametrize("bits", [0.5, 2.0, 3.0, 7.5])
def test_bits_are_met(bits):
    # Without integers, which would share the chunk of the quantized weights.
    state = {name: tensor for name, tensor in STATE.items() if tensor.dtype.is_floating_point}
    assert 0.985 * bits <= coded_bits(compress_state_dict(state, CompressionConfig(bits=bits))) <= 1.001 * bits


def test_bits_by_another_coder():
    state = {"w": STATE["head.weight"]}
    model = compress_state_dict(state, CompressionConfig(bits=3, coder="huffman"))
    chunk = Reader(encode(model, "huffman")).header.chunks[0]
    assert 0.99 * 3 <= 8 * chunk.payload_bytes / 5000 <= 3


def test_four_bits_unless_told_otherwise():
    without, with_bits = compress_state_dict(STATE), compress_state_dict(STATE, CompressionConfig(bits=4))
    assert encode(without) == encode(with_bits)


def test_smaller_than_the_nearest_multiples_of_a_step_at_equal_error():
    plain = metaq.compress(STATE, step=0.2)
    limit = error(STATE, plain.decompress())
    kept = CompressionConfig(max_error=limit, keep=("conv.bias", "scale"))
    assert len(encode(compress_state_dict(STATE, kept))) < len(encode(plain))


def test_keep_is_exact_and_the_rest_meets_the_error():
    model = compress_state_dict(STATE, CompressionConfig(max_error=1e-2, keep=("head.*", "*.bias")))
    loaded = load_tensors(Reader(encode(model)))
    for name in ("head.weight", "conv.bias", "norm.half", "steps"):
        assert torch.equal(loaded[name], STATE[name])
    assert loaded["tied.weight"] is loaded["embedding.weight"]
    assert 0.0099 <= error(STATE, loaded, [name for name in QUANTIZED if name != "head.weight"]) <= 0.01


def test_bits_of_some():
    config = CompressionConfig(max_error=5e-2, tensor_bits={"head.*": 6, "h*": 2})
    model = compress_state_dict(STATE, config)
    for name, bits in (("head.weight", 6), ("half.weight", 2)):
        entry = model.tensors[name]
        assert coded_bits(metaq.CompressedModel({name: entry})) == pytest.approx(bits, rel=0.04)
    assert 0.0495 <= error(STATE, model.decompress()) <= 0.05


def test_vectors_are_as_exact_as_float16_and_dtypes_stay():
    loaded = load_tensors(Reader(encode(compress_state_dict(STATE))))
    assert torch.equal(loaded["conv.bias"], STATE["conv.bias"].half().float())
    assert torch.equal(loaded["scale"], STATE["scale"].half().float())
    assert [loaded[name].dtype for name in STATE] == [tensor.dtype for tensor in STATE.values()]


@pytest.mark.parametrize(("dtype", "lowest", "highest"), [(torch.float32, -149, 128), (torch.float64, -1074, 1024)])
def test_rounding_in_the_whole_range(dtype, lowest, highest):
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(lowest, highest, (20000,), generator=generator)
    values = torch.ldexp(torch.randn(20000, generator=generator, dtype=torch.float64), exponents).to(dtype)
    rounded = round_as_float16(values)
    finite = values.isfinite()
    assert torch.equal(rounded[~finite], values[~finite])
    assert bool(rounded[finite].isfinite().all())
    assert bool(((rounded - values).abs() <= values.abs() * 2.0**-11)[finite].all())
    normal = values[(values.abs() > 2.0**-14) & (values.abs() < 60000)]
    assert torch.equal(round_as_float16(normal), normal.half().to(dtype))


def test_rounding_of_special_values():
    values = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, torch.finfo(torch.float32).max, 2.0**-149])
    rounded = round_as_float16(values)
    assert torch.equal(rounded.view(torch.int32), values.view(torch.int32))


def test_any_scale_and_dtype():
    single, double = torch.float32, torch.float64
    for dtype, scale in ((torch.half, 20000.0), (single, 1e-40), (single, 1e38), (double, 1e30), (double, 1.0)):
        weights = (scale * torch.randn(40, 40, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)).to(dtype)
        loaded = load_tensors(Reader(encode(compress_state_dict({"w": weights}, CompressionConfig(bits=2)))))["w"]
        assert bool(torch.isfinite(loaded).all())
        assert loaded.dtype == dtype


@pytest.mark.parametrize("state", [{"b": torch.ones(5)}, {"w": torch.zeros(3, 3)}, {"w": torch.empty(0, 4)}])
@pytest.mark.parametrize("dial", [{"max_error": 1e-3}, {"size_bytes": 1000}, {"bits": 3}, {"quality": "low"}])
def test_nothing_to_search_for(state, dial):
    loaded = load_tensors(Reader(encode(compress_state_dict(state, CompressionConfig(**dial)))))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


BAD = {
    "two dials": (
        {"max_error": 0.1, "bits": 3},
        "at most one of max_error, size_bytes, bits, quality, step, lossless, found max_error, bits",
    ),
    "a target beside a step": ({"step": 0.1, "quality": "low"}, "found quality, step"),
    "a target beside lossless": ({"lossless": True, "bits": 3}, "found bits, lossless"),
    "a step beside lossless": ({"lossless": True, "step": 3.0}, "found step, lossless"),
    "bits of some beside a step": ({"step": 0.1, "tensor_bits": {"*": 2}}, r"none beside step, found \*"),
    "bits of some beside lossless": ({"lossless": True, "tensor_bits": {"*": 2}}, r"none beside lossless, found \*"),
    "what to keep beside lossless": ({"lossless": True, "keep": ("*",)}, r"keep: expected no pattern .*, found \*"),
    "no step": ({"step": 0.0}, "step: expected a finite number above 0, found 0"),
    "step that is no number": ({"step": math.nan}, "step: expected a finite number above 0, found nan"),
    "infinite step": ({"step": math.inf}, "step: expected a finite number above 0, found inf"),
    "tiny step": ({"step": 1e-12}, r"tensor '.*': weights: expected less than 2\^30 steps"),
    "no error": ({"max_error": 0.0}, "max_error: expected more than 0"),
    "all error": ({"max_error": 1.0}, "max_error: expected more than 0 and less than 1"),
    "no size": ({"size_bytes": 0}, "size_bytes: expected at least 1"),
    "no bits": ({"bits": 0.0}, "bits: expected more than 0"),
    "not a number": ({"bits": math.nan}, "bits: expected more than 0"),
    "bits of some": ({"tensor_bits": {"*": 30}}, "bits: expected more than 0 and at most 24"),
    "quality": ({"quality": "best"}, "quality: expected one of low, medium, high, found 'best'"),
    "coder": ({"coder": "zip"}, "expected"),
    "pattern": ({"keep": ("nothing*",)}, r"pattern 'nothing\*': expected one that matches"),
    "pattern of bits": ({"tensor_bits": {"x": 2}}, "pattern 'x': expected"),
    "too small": ({"size_bytes": 100}, "size_bytes: expected at least"),
    "too exact": ({"max_error": 1e-18}, "max_error: expected at least"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        compress_state_dict(STATE, CompressionConfig(**arguments))


def test_on_a_step_every_weight_is_on_the_nearest_multiple_and_the_rest_is_exact():
    loaded = compress_state_dict(STATE, CompressionConfig(step=0.05, keep=("head.*",))).decompress()
    expected = metaq.compress(STATE, step=0.05).decompress()
    for name, tensor in STATE.items():
        assert torch.equal(loaded[name], tensor if name == "head.weight" else expected[name])


def test_lossless_is_compress_losslessly():
    state = {**STATE, "few": torch.randint(0, 9, (80, 80)).half()}
    found = compress_state_dict(state, CompressionConfig(lossless=True, coder="rans"))
    assert encode(found, "rans") == encode(metaq.compress_losslessly(state), "rans")


def test_bits_are_those_of_quantized_weights_among_many_integers():
    state = {"w": network()["head.weight"], "ids": torch.arange(40_000)}
    model = compress_state_dict(state, CompressionConfig(bits=3))
    assert 0.985 * 3 <= coded_bits(metaq.CompressedModel({"w": model.tensors["w"]})) <= 3


@pytest.mark.parametrize(
    ("elements", "options", "coder"),
    [
        (100, {}, "mixing"),
        (100, {"coder": "rans"}, "rans"),
        (1 << 20, {"step": 1.0}, "adaptive"),
        (1 << 20, {"lossless": True}, "rans"),
    ],
)
def test_the_coder_that_a_model_is_made_for_is_what_it_is_saved_with(tmp_path, elements, options, coder):
    model = compress_state_dict({"w": torch.zeros(1, elements)}, CompressionConfig(**options))
    assert model.coder == coder
    metaq.save(model, tmp_path / "x.mtq")
    if elements == 100 and coder == "mixing":
        model = compress_state_dict({"w": network()["head.weight"]}, CompressionConfig(bits=3))
        metaq.save(model, tmp_path / "x.mtq")
        assert {chunk.coder for chunk in Reader((tmp_path / "x.mtq").read_bytes()).header.chunks} == {3}


def test_symbols_of_the_trellis_are_not_saved_with_a_coder_that_makes_them_larger(tmp_path):
    state = {"w": STATE["head.weight"]}
    model = compress_state_dict(state, CompressionConfig(max_error=1e-2))
    with pytest.raises(
        InputError, match="coder: expected mixing or adaptive, for which weights were quantized, found"
    ) as e:
        metaq.save(model, tmp_path / "x.mtq", "rans")
    assert "compress again with CompressionConfig(coder='rans')" in str(e.value)
    assert not list(tmp_path.iterdir())
    metaq.save(model, tmp_path / "x.mtq", "adaptive")
    with pytest.raises(InputError, match="expected mixing or adaptive"):
        metaq.save(read_model(Reader((tmp_path / "x.mtq").read_bytes())), tmp_path / "y.mtq", "rans")
    again = compress_state_dict(state, CompressionConfig(max_error=1e-2, coder="rans"))
    assert metaq.save(again, tmp_path / "y.mtq") < 0.9 * len(encode(model, "rans"))


@pytest.mark.parametrize("made", [metaq.compress, lambda state, step: metaq.compress_losslessly(state)])
def test_models_that_are_made_for_no_coder_are_saved_with_any(tmp_path, made):
    model = made(STATE, 0.1)
    assert model.coder is None
    for coder in ("mixing", "rans"):
        metaq.save(model, tmp_path / "x.mtq", coder)
        back = read_model(Reader((tmp_path / "x.mtq").read_bytes()))
        assert back.coder in (coder, "rans")
        metaq.save(back, tmp_path / "y.mtq")
        assert (tmp_path / "x.mtq").read_bytes() == (tmp_path / "y.mtq").read_bytes()
        metaq.save(back, tmp_path / "y.mtq", "huffman")


def classifier():
    """A network whose inputs are correlated and of very different sizes, and samples of them."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.ReLU(), torch.nn.Linear(60, 10))
    inputs = torch.randn(600, 40) @ torch.randn(40, 40) * torch.logspace(-1, 0.5, 40)
    return model, inputs


@pytest.mark.parametrize("bits", [2.0, 4.0])
def test_calibrated_networks_predict_better_at_equal_size(bits):
    model, inputs = classifier()
    calibration = metaq.calibrate(model, inputs[:300].split(100))
    expected = model(inputs[300:]).log_softmax(-1).detach()
    misses, sizes = [], []
    for known in (None, calibration):
        config = CompressionConfig(bits=bits)
        compressed = compress_state_dict(model.state_dict(), config, calibration=known)
        sizes.append(len(encode(compressed)))
        other, _ = classifier()
        other.load_state_dict(compressed.decompress())
        found = other(inputs[300:]).log_softmax(-1).detach()
        misses.append(float((expected.exp() * (expected - found)).sum(-1).mean()))
    assert misses[1] < 0.7 * misses[0]
    assert sizes[1] < 1.02 * sizes[0]


def test_calibration_of_another_model():
    _, inputs = classifier()
    known = metaq.calibrate(torch.nn.Sequential(torch.nn.Linear(40, 7)), [inputs])
    with pytest.raises(InputError, match=r"calibration of '0.weight': expected shape \(60, 40\)"):
        compress_state_dict(classifier()[0].state_dict(), calibration=known)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tensors_that_are_not_finite_stay_as_they_are(value):
    state = {**network(), "odd": torch.tensor([[1.0, value], [0.1, -0.0]])}
    decoded = compress_state_dict(state, CompressionConfig(bits=3)).decompress()
    assert metrics.digest({"odd": decoded["odd"]}) == metrics.digest({"odd": state["odd"]})
    assert not torch.equal(decoded["conv.weight"], state["conv.weight"])


@pytest.mark.parametrize(
    ("text", "size"), [("20000", 20000), ("4MB", 4_000_000), ("1.5 MiB", 1572864), (".5kb", 500), ("7B", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "4 parsecs", "-4MB", "4,5MB", "nan"])
def test_no_sizes(text):
    with pytest.raises(InputError, match="size: expected a number and a unit"):
        parse_size(text)


def test_bits_by_pattern():
    assert parse_bits(["head.*:bits=4", "a:b:bits=2.5"]) == {"head.*": 4.0, "a:b": 2.5}
    for text in ("head", "head:bits", "head:bits=x", ":bits=4", "head:step=4"):
        with pytest.raises(InputError, match="PATTERN:bits=NUMBER"):
            parse_bits([text])
