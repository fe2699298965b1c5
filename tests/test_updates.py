"""metaq.delta and metaq.apply, with and without torch: what comes back, what it costs, what is refused."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metaq
import metaq.numpy
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, encode, read_model
from metaq.errors import FormatError, InputError
from metaq.format.dtypes import DTYPES
from metaq.format.reader import Reader


def step(tensor, seed, size=3e-6):
    """A tensor after a step of training, rounded to its dtype."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    return (tensor.float() + size * noise).to(tensor.dtype)


@pytest.fixture(scope="module")
def base():
    generator = torch.Generator().manual_seed(0)
    state = {f"{i}.weight": (torch.randn(100, 60, generator=generator) * 0.02).bfloat16() for i in range(3)}
    return state | {"norm": torch.ones(60), "steps": torch.tensor(7), "tied": state["0.weight"]}


def entries(data):
    return {entry.name: entry for entry in Reader(data, takes_differences=True).header.tensors}


def assert_same(found, expected):
    assert set(found) == set(expected)
    assert metaq.checksum(found) == metaq.checksum(expected)


def test_a_step_of_training(base):
    new = base | {name: step(base[name], seed) for seed, name in enumerate(("0.weight", "1.weight"), 1)}
    new["tied"] = new["0.weight"]
    data = metaq.delta(base, new, {"step": "1"})
    assert len(data) < 800  # of 36 kB
    assert set(entries(data)) == {"0.weight", "1.weight", "tied"}
    assert Reader(data, takes_differences=True).header.metadata == {"step": "1"}
    found = metaq.apply(base, data)
    assert_same(found, new)
    assert list(found) == list(base)
    assert found["tied"] is found["0.weight"]
    assert found["norm"] is not base["norm"]


def test_equal_networks_are_a_header(base):
    data = metaq.delta(base, {name: tensor.clone() for name, tensor in base.items()})
    assert len(data) < 70
    assert_same(metaq.apply(base, data), base)


def test_equal_tensors_of_any_dtype_take_nothing(base):
    state = base | {"mask": torch.randn(90, 80) > 0, "empty": torch.zeros(0, 3), "scalar": torch.tensor(True)}
    data = metaq.delta(state, {name: tensor.clone() for name, tensor in state.items()})
    assert len(data) < 70
    new = state | {"mask": ~state["mask"], "empty": torch.zeros(3, 0), "scalar": torch.tensor(False)}
    assert set(entries(metaq.delta(state, new))) == {"mask", "empty", "scalar"}
    assert_same(metaq.apply(state, metaq.delta(state, new)), new)


def test_mappings_that_make_tensors_when_they_are_asked(tmp_path):
    """Which may be at the same address one after the other."""

    class Made(dict):
        def items(self):
            return ((name, tensor.clone()) for name, tensor in super().items())

    old, new = ({name: torch.randn(1000) for name in "abcdef"} for _ in range(2))
    assert_same(metaq.apply(Made(old), metaq.delta(Made(old), Made(new))), new)
    np.savez(tmp_path / "old.npz", **as_arrays(old))
    np.savez(tmp_path / "new.npz", **as_arrays(new))
    with np.load(tmp_path / "old.npz") as first, np.load(tmp_path / "new.npz") as second:
        made = metaq.numpy.apply(first, metaq.numpy.delta(first, second))
    assert all(np.array_equal(made[name], tensor) for name, tensor in as_arrays(new).items())


def test_ties_come_and_go(base):
    apart = base | {"tied": base["tied"].clone()}
    together = apart | {"1.weight": apart["0.weight"]}
    for old, new in ((base, apart), (apart, base), (apart, together), (together, apart)):
        assert_same(metaq.apply(old, metaq.delta(old, new)), new)
    changed = apart | {"0.weight": step(base["0.weight"], 1)}
    assert_same(metaq.apply(base, metaq.delta(base, changed)), changed)


def test_surgery(base):
    old = base | {"embedding": torch.randn(50, 8), "cut": torch.randn(9, 4), "gone": torch.ones(2)}
    new = {name: tensor for name, tensor in old.items() if name not in ("gone", "2.weight")}
    new["block.2.weight"] = old["2.weight"]
    new["embedding"] = torch.cat([step(old["embedding"], 1), torch.randn(3, 8)])
    new["cut"] = old["cut"][:5]
    new["norm"] = old["norm"].half()
    new["1.weight"] = old["1.weight"].reshape(60, 100)
    new["fresh"] = torch.randn(4)
    data = metaq.delta(old, new)
    found = entries(data)
    assert found["block.2.weight"].change == ((100, 60), 6000, 0, "2.weight")
    assert found["embedding"].change[:2] == ((53, 8), 400)
    assert found["cut"].change == ((5, 4), 20, 0, "cut")
    assert found["1.weight"].change == ((60, 100), 6000, 0, "1.weight")
    assert {name for name, entry in found.items() if entry.is_removed} == {"gone", "2.weight"}
    assert_same(metaq.apply(old, data), new)
    assert len(data) < 2200


def test_another_prefix(base):
    new = {f"model.{name}": step(tensor, seed) for seed, (name, tensor) in enumerate(base.items(), 1) if name != "tied"}
    data = metaq.delta(base, new)
    assert entries(data)["model.1.weight"].change.source == "1.weight"
    assert 0 < entries(data)["model.1.weight"].change.differing < 600
    assert_same(metaq.apply(base, data), new)
    assert_same(metaq.apply(new, metaq.delta(new, base)), base)


def test_other_weights_are_held_as_they_are():
    old = {"w": torch.randn(64, 64)}
    new = {"w": torch.randn(64, 64) * 1e-20}
    data = metaq.delta(old, new)
    assert entries(data)["w"].change is None
    assert_same(metaq.apply(old, data), new)


@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES.values()])
def test_every_dtype_in_numpy(dtype):
    generator = np.random.default_rng(1)
    known = np.dtype(getattr(ml_dtypes, dtype) if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2") else dtype)
    octets = generator.integers(0, 2 if dtype == "bool" else 256, 900 * known.itemsize).astype(np.uint8)
    old = {"w": octets.view(known).reshape(30, 30), "same": np.arange(5), "empty": np.zeros((0, 3), known)}
    new_octets = octets.copy()
    new_octets[:: 5 * known.itemsize] ^= 1
    new = old | {"w": new_octets.view(known).reshape(30, 30)}
    found = metaq.numpy.apply(old, metaq.numpy.delta(old, new))
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in new.items()
    }


def as_arrays(state):
    """Tensors as NumPy has them."""
    numbers = {name: tensor for name, tensor in state.items() if tensor.dtype != torch.bfloat16}
    return {
        name: tensor.numpy() if name in numbers else tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        for name, tensor in state.items()
    }


def test_numpy_and_torch_write_the_same(base):
    new = base | {"norm": base["norm"] * 1.5}
    states = [{name: tensor for name, tensor in state.items() if name != "tied"} for state in (base, new)]
    assert metaq.numpy.delta(*map(as_arrays, states)) == metaq.delta(*states)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_arrays(data):
    def network():
        names = data.draw(st.lists(st.sampled_from("abcd"), unique=True))
        return {name: np.array(data.draw(values), data.draw(dtypes)) for name in names}

    values, dtypes = st.lists(st.integers(0, 3), max_size=5), st.sampled_from(["float32", "int64", "uint8", "bool"])
    old, new = network(), network()
    found = metaq.numpy.apply(old, metaq.numpy.delta(old, new))
    assert {name: (array.dtype, array.tobytes()) for name, array in found.items()} == {
        name: (array.dtype, array.tobytes()) for name, array in new.items()
    }


def test_trained_differences_are_applied_as_well(base):
    """To the bit as `apply_difference` does it, without torch too."""
    generator = torch.Generator().manual_seed(3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        state = {"w": (torch.randn(500, generator=generator) * 1e3).to(dtype), "b": torch.zeros(3)}
        symbols = torch.randint(-9, 10, (500,), generator=generator, dtype=torch.int32)
        for size in (0.37, 3e37):
            entry = CodedTensor(symbols, UniformCodebook(size), torch.float32)
            data = encode(CompressedModel({"w": entry}, base=metaq.checksum(state)))
            expected = metaq.apply_difference(read_model(Reader(data, takes_differences=True)), state)
            assert_same(metaq.apply(state, data), expected)


def test_another_base_is_refused(base):
    new = base | {"1.weight": step(base["1.weight"], 1)}
    data = metaq.delta(base, new)
    flipped = base["2.weight"].clone()
    flipped.view(torch.int16)[5, 5] ^= 1
    expected, found = metaq.checksum(base)[:12], metaq.checksum(new)[:12]
    with pytest.raises(InputError, match=rf"expected the base {expected}\.\.\., found {found}\.\.\.: other weights"):
        metaq.apply(new, data)
    without = {name: tensor for name, tensor in base.items() if name != "1.weight"}
    for other, message in (
        (base | {"2.weight": flipped}, "expected the base"),
        (without, "'1.weight': expected 6000 elements or more of bfloat16, found no such tensor"),
        (base | {"1.weight": torch.zeros(2).bfloat16()}, r"found shape \(2,\) of bfloat16"),
        (base | {"1.weight": base["1.weight"].half()}, r"found shape \(100, 60\) of float16"),
    ):
        with pytest.raises(InputError, match=message):
            metaq.apply(other, data)
    with pytest.raises(InputError, match="expected one of bfloat16, which the difference removes, found no"):
        metaq.apply(without, metaq.delta(base, without))


def test_what_is_no_difference_and_what_is_no_model(base, tmp_path):
    new = base | {"1.weight": step(base["1.weight"], 1)}
    data, path = metaq.delta(base, new), tmp_path / "update.mtq"
    path.write_bytes(data)
    assert_same(metaq.apply(base, path), new)
    with pytest.raises(InputError, match="expected a whole model, found a difference from the base"):
        metaq.load_file(path)
    with pytest.raises(InputError, match="expected a model or a trained difference, found one without loss"):
        read_model(Reader(data, takes_differences=True))
    metaq.save(metaq.compress_losslessly({"w": torch.randn(4, 4)}), tmp_path / "whole.mtq")
    with pytest.raises(InputError, match=r"whole\.mtq: expected a difference, found a whole model"):
        metaq.apply(base, tmp_path / "whole.mtq")


def test_damage_is_found(base):
    data = metaq.delta(base, base | {"1.weight": step(base["1.weight"], 1)})
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(data), 30):
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.integers(0, 8)
        with pytest.raises((FormatError, InputError)):
            metaq.apply(base, bytes(damaged))
    for size in generator.integers(0, len(data), 10):
        with pytest.raises(FormatError):
            metaq.apply(base, data[:size])


def surgery():
    """A base and a network with changes of every kind."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, size=1.0):
        return size * torch.randn(*shape, generator=generator)

    old = {
        **{str(dtype): normal(40, 30).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        "filter": normal(8, 4, 3, 3),
        "same": normal(30, 30),
        "before": normal(9, 9),
        "gone": normal(4, 4),
        "rows": normal(10, 8),
        "vector": normal(40),
        "infinite": normal(5, 5),
        "tiny": torch.zeros(4, 4, dtype=torch.float64),
        "float8": normal(6, 6).to(torch.float8_e4m3fn),
        "counter": torch.tensor([[3]]),
    }
    new = {name: tensor.clone() for name, tensor in old.items() if name not in ("gone", "before")}
    for name in (str(torch.float16), str(torch.bfloat16), str(torch.float64), "filter", "vector"):
        new[name] += normal(*new[name].shape, size=0.1).to(new[name].dtype)
    new["infinite"][1, 1] = torch.inf
    new["tiny"][0] = 1e-300
    new["float8"] = new["float8"].flip(0)
    new["counter"] = torch.tensor([[4]])
    return old, new | {"after": old["before"], "rows": torch.cat([old["rows"], normal(2, 8)]), "tied": new["filter"]}


QUANTIZED = {str(torch.float16), str(torch.bfloat16), str(torch.float64), "filter", "tied"}


def lost(old, new, made):
    """Of the changes' energy."""
    errors = energy = 0.0
    for name in QUANTIZED - {"tied"}:
        errors += float((made[name].double() - new[name].double()).square().sum())
        energy += float((old[name].double() - new[name].double()).square().sum())
    return errors / energy


@pytest.mark.parametrize("target", [{"max_error": 0.01}, {"bits": 2}, {"size_bytes": 3500}], ids=str)
def test_changes_are_quantized_to_a_target(target):
    """Of matrices that stay themselves; all else is exact."""
    old, new = surgery()
    data = metaq.delta(old, new, {"is": "kept"}, metaq.CompressionConfig(**target))
    made = metaq.apply(old, data)
    assert set(made) == set(new)
    assert_same({name: made[name] for name in new.keys() - QUANTIZED}, {n: new[n] for n in new.keys() - QUANTIZED})
    assert made["tied"] is made["filter"]
    assert 0.001 < lost(old, new, made) < (0.0102 if "max_error" in target else 0.15)  # float16 and bfloat16 round
    assert len(data) <= target.get("size_bytes", 4500)
    found = entries(data)
    assert found["after"].change == ((9, 9), 81, 0, "before")
    assert found["gone"].is_removed
    assert "same" not in found
    assert Reader(data, takes_differences=True).header.metadata == {"is": "kept"}
    with pytest.raises(InputError, match="expected the base"):
        metaq.apply(made | {"before": old["before"], "gone": old["gone"]}, data)


def test_where_nothing_can_be_quantized_nothing_is_lost(base):
    new = base | {"norm": base["norm"] + 1}
    config = metaq.CompressionConfig(size_bytes=1000)
    assert metaq.delta(base, new, config=config) == metaq.delta(base, new)
    assert metaq.delta(base, base, config=config) == metaq.delta(base, base)
    with pytest.raises(InputError, match=r"size_bytes: expected at least [0-9]+, because the difference has nothing"):
        metaq.delta(base, new, config=metaq.CompressionConfig(size_bytes=20))
    for size in (20, 600):
        with pytest.raises(InputError, match=f"size_bytes: expected at least .*, found {size}$"):
            metaq.delta(*surgery(), config=metaq.CompressionConfig(size_bytes=size))


def test_what_else_a_configuration_says():
    """Patterns may be of tensors that do not change, and a coder is of what is held as it is."""
    old, new = (
        {"w": torch.zeros(60, 60), "same": torch.ones(9, 9)},
        {"w": torch.randn(60, 60), "same": torch.ones(9, 9)},
    )
    kept = metaq.delta(old, new, config=metaq.CompressionConfig(bits=2, keep=("same",)))
    assert kept == metaq.delta(old, new, config=metaq.CompressionConfig(bits=2))
    with pytest.raises(InputError, match="pattern 'none': expected one that matches"):
        metaq.delta(old, new, config=metaq.CompressionConfig(bits=2, keep=("none",)))
    stored = metaq.delta(old, new, config=metaq.CompressionConfig(lossless=True, coder="stored"))
    assert len(stored) > len(metaq.delta(old, new))
    assert_same(metaq.apply(old, stored), new)


def test_into_a_model(tmp_path):
    model, other = torch.nn.Linear(50, 40), torch.nn.Linear(50, 40)
    other.weight.data = step(model.weight.data, 1)
    (tmp_path / "update.mtq").write_bytes(metaq.delta(model.state_dict(), other.state_dict()))
    metaq.load_into(model, tmp_path / "update.mtq")
    assert_same(model.state_dict(), other.state_dict())


def test_numpy_needs_no_torch():
    code = (
        "import sys, numpy as np, metaq.numpy as m; a = {'w': np.zeros(300, np.float32)}; b = {'w': np.eye(1, 300)[0]};"
        "assert (m.apply(a, m.delta(a, b))['w'] == b['w']).all(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
