"""State dicts to compressed models and back, through files."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import coding
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, check_model, encode, keep
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.quantizers.uniform import compress
from metaq.tensors import DTYPES, load_tensors

SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**-130), 2.0**-1074, 3.4028234663852886e38, 1 / 3]


def weights(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through_a_file(model, coder="mixing"):
    return load_tensors(Reader(encode(model, coder)))


@st.composite
def tensors(draw):
    """A tensor of any dtype and bits, in memory in any order."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 6), max_size=4))
    octets = torch.randint(
        0,
        draw(st.sampled_from([1, 3, 256])),
        (math.prod(shape) * dtype.itemsize,),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))),
    )
    octets = octets.bitwise_and(1) if dtype == torch.bool else octets
    tensor = octets.view(dtype).reshape(shape)
    order = draw(st.permutations(range(len(shape))))
    return tensor.permute(order)[:: draw(st.sampled_from([1, 2]))] if shape else tensor


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(deadline=None, max_examples=100)
@given(state=st.dictionaries(names, tensors(), min_size=1, max_size=5), coder=st.sampled_from(list(coding.coders)))
def test_any_state_survives_bit_for_bit(state, coder):
    loaded = through_a_file(CompressedModel(keep(state)), coder)
    assert list(loaded) == list(state)
    assert digest(loaded) == digest(state)
    assert encode(CompressedModel(keep(state)), coder) == encode(CompressedModel(keep(state)), coder)


@pytest.mark.parametrize("coder", coding.coders)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_special_values_are_kept(dtype, coder):
    state = {"a": torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)}
    assert digest(through_a_file(CompressedModel(keep(state)), coder)) == digest(state)


def test_tied_tensors_are_one():
    base = weights(6, 6)
    state = {"a": base, "tied": base, "view": base.view(6, 6)}
    state |= {"part": base[:3], "transposed": base.T, "flat": base.view(-1)}
    kept = keep(state)
    assert kept["tied"] == kept["view"] == Alias("a")
    assert all(isinstance(kept[name], torch.Tensor) for name in ("a", "part", "transposed", "flat"))
    loaded = through_a_file(CompressedModel(kept))
    assert loaded["tied"] is loaded["a"]
    assert digest(loaded) == digest(state)


def test_what_shares_memory_but_not_values_is_not_tied():
    base = torch.complex(torch.zeros(4), torch.arange(4.0))
    state = {"a": base.imag, "b": base.conj().imag, "c": torch.empty(0), "d": torch.empty(0)}
    kept = keep(state)
    assert not any(isinstance(tensor, Alias) for tensor in kept.values())
    assert torch.equal(through_a_file(CompressedModel(kept))["b"], -torch.arange(4.0))


@pytest.mark.parametrize("value", [2**30 - 1, -(2**30) + 1])
def test_integers_are_coded_up_to_the_limit(value):
    assert isinstance(keep({"a": torch.tensor([value])})["a"], CodedTensor)
    assert isinstance(keep({"a": torch.tensor([value + (1 if value > 0 else -1)])})["a"], torch.Tensor)


BAD_STATES = {
    "a step": (0, "expected a mapping from names to tensors, found int"),
    "empty": ({}, "at least one tensor"),
    "no tensor": ({"a": [1.0]}, "expected a torch.Tensor, found list"),
    "sparse": ({"a": torch.eye(3).to_sparse()}, "expected a dense tensor"),
    "complex": ({"a": torch.zeros(2, dtype=torch.complex64)}, "found torch.complex64"),
    "uint16": ({"a": torch.zeros(2, dtype=torch.uint16)}, "found torch.uint16"),
    "meta": ({"a": torch.zeros(2, device="meta")}, "meta device"),
    "33 dimensions": ({"a": torch.zeros((1,) * 33)}, "at most 32 dimensions"),
    "huge behind zero": ({"a": torch.zeros(0, 2**40)}, r"2\^40 elements"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES.keys())
def test_states_that_no_file_can_hold(state, message):
    with pytest.raises(InputError, match=message):
        compress(state, step=0.1)


def coded(symbols, codebook=None, dtype=torch.float32):
    return CodedTensor(torch.tensor(symbols), codebook or UniformCodebook(1.0), dtype)


BAD_MODELS = {
    "name": (CompressedModel({3: torch.zeros(1)}), "Unicode text, found 3"),
    "surrogate": (CompressedModel({"\ud800": torch.zeros(1)}), "Unicode text"),
    "metadata": (CompressedModel({}, {"a": 1}), "Unicode text, found 1"),
    "metadata key": (CompressedModel({}, {None: "a"}), "Unicode text, found None"),
    "alias of none": (CompressedModel({"a": Alias("b")}), "alias of one before it, found one of 'b'"),
    "alias of a later": (CompressedModel({"a": Alias("b"), "b": torch.zeros(1)}), "alias of one before"),
    "alias of itself": (CompressedModel({"a": Alias("a")}), "alias of one before"),
    "alias of an alias": (
        CompressedModel({"a": torch.zeros(1), "b": Alias("a"), "c": Alias("b")}),
        "alias of one before",
    ),
    "kept complex": (CompressedModel({"a": torch.zeros(1, dtype=torch.complex64)}), "found torch.complex64"),
    "coded complex": (CompressedModel({"a": coded([1], dtype=torch.complex64)}), "found torch.complex64"),
    "float8": (CompressedModel({"a": coded([1], dtype=torch.float8_e5m2)}), "UniformCodebook is for"),
    "integers on a step": (CompressedModel({"a": coded([1], dtype=torch.int8)}), "UniformCodebook is for"),
    "floats as integers": (CompressedModel({"a": coded([1], IntegerCodebook())}), "IntegerCodebook is for"),
    "float symbols": (CompressedModel({"a": coded([1.0])}), "symbols of an integer dtype"),
    "wrapping symbols": (CompressedModel({"a": coded([2**32])}), "'a': symbols: expected"),
    "outside the table": (CompressedModel({"a": coded([1], TableCodebook((0.0,), 0))}), "expected 0 to 0"),
    "outside the dtype": (CompressedModel({"a": coded([256], IntegerCodebook(), torch.uint8)}), "expected 0 to 255"),
}


@pytest.mark.parametrize(("model", "message"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_models_that_no_file_can_hold(model, message):
    with pytest.raises(InputError, match=message):
        encode(model)
    with pytest.raises(InputError, match=message):
        check_model(model)


def test_symbols_of_any_integer_dtype():
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int64):
        model = CompressedModel({"a": CodedTensor(torch.tensor([1, 2], dtype=dtype), UniformCodebook(0.5), torch.half)})
        assert through_a_file(model)["a"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_compress_quantizes_matrices_and_keeps_the_rest(dtype):
    state = {"w": weights(30, 20).to(dtype), "b": weights(7).to(dtype), "none": torch.empty(0, 4), "n": torch.tensor(3)}
    model = compress(state, step=0.125)
    loaded = through_a_file(model)
    assert [type(entry) for entry in model.tensors.values()] == [CodedTensor, torch.Tensor, torch.Tensor, CodedTensor]
    assert digest(loaded) == digest(model.decompress())
    assert float((loaded["w"].double() - state["w"].double()).abs().max()) <= 0.0625 + 0.01
    assert torch.equal(loaded["b"], state["b"])
    assert loaded["n"].dtype == torch.int64


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e30, 1e37])
def test_weights_of_any_scale(scale):
    loaded = through_a_file(compress({"a": weights(20, 20) * scale}, step=max(0.2 * scale, 2.0**-149)))
    assert bool(torch.isfinite(loaded["a"]).all())
    assert scale < 1e-40 or int(loaded["a"].count_nonzero()) > 100


def test_zeros_and_one_weight():
    assert through_a_file(compress({"a": torch.zeros(3, 3)}, step=0.5))["a"].tolist() == [[0.0] * 3] * 3
    assert through_a_file(compress({"a": torch.ones(1, 1)}, step=0.5))["a"].shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0.0}, "positive finite"),
        ({"step": -1.0}, "positive finite"),
        ({"step": math.nan}, "positive finite"),
        ({"step": math.inf}, "positive finite"),
    ],
)
@pytest.mark.parametrize("state", [{"w": torch.ones(2, 2)}, {"b": torch.ones(2)}], ids=["matrix", "vector"])
def test_bad_arguments_even_if_there_is_nothing_to_quantize(state, arguments, message):
    with pytest.raises(InputError, match=message):
        compress(state, **arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_kept_and_named(value, dtype, caplog):
    state = {"fine": weights(3, 3), "bad": torch.tensor([[0.3, value]], dtype=dtype)}
    model = compress(state, step=0.25)
    assert digest({"bad": model.tensors["bad"]}) == digest({"bad": state["bad"]})
    assert isinstance(model.tensors["fine"], CodedTensor)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "tensor 'bad': expected weights that float32 holds, found NaN, infinity or larger ones" in record.getMessage()
    )


def test_steps_that_weights_cannot_take():
    with pytest.raises(InputError, match=r"'a': weights: expected less than 2\^30 steps"):
        compress({"a": torch.full((2, 2), 1e9)}, step=1e-3)
    with pytest.raises(InputError, match=r"'a': step: expected one that keeps weights within torch\.float16"):
        compress({"a": torch.full((2, 2), 65504.0).half()}, step=40000.0)
