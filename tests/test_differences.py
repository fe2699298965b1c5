"""Differences as files and as models: what they are applied to, what they are refused for, what they cost."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import metaq
import metaq.numpy
from metaq.codebook import IntegerCodebook, UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, read_model
from metaq.errors import InputError
from metaq.format.reader import Reader

STEP = UniformCodebook(0.25)


def coded(*symbols):
    return CodedTensor(torch.tensor(symbols, dtype=torch.int32), STEP, torch.float32)


def base():
    return {"a": torch.tensor([1.0, -0.0, 3.0]), "b": torch.tensor([2.0, 256.0]).bfloat16(), "n": torch.tensor(3)}


def difference(**tensors):
    return CompressedModel(tensors, base=metaq.checksum(base()))


def bits(tensor):
    return tensor.view(torch.int32 if tensor.dtype.itemsize == 4 else torch.int16).tolist()


def test_sums_and_what_takes_the_place_of_tensors():
    three = CodedTensor(torch.tensor(4), IntegerCodebook(), torch.int64)
    kept = torch.tensor([[1.5]])
    found = metaq.apply_difference(difference(b=coded(1, 1), n=three, new=kept, again=Alias("b")), base())
    assert list(found) == ["a", "b", "n", "new", "again"]
    assert found["a"].tolist() == [1.0, 0.0, 3.0]
    assert found["b"].dtype == torch.bfloat16
    assert found["b"].tolist() == [2.25, 256.0]  # bfloat16 has no 256.25
    assert found["again"] is found["b"]
    assert found["n"].item() == 4
    assert found["new"] is kept


def test_an_element_without_difference_keeps_its_bits():
    odd = torch.tensor([-0.0, float("nan"), float("inf"), 1.0])
    odd.view(torch.int32)[1] = 0x7FC01234
    state = {"a": odd}
    made = CompressedModel({"a": coded(0, 7, 7, 0)}, base=metaq.checksum(state))
    assert bits(metaq.apply_difference(made, state)["a"]) == bits(odd)


def test_a_checksum_is_of_names_dtypes_shapes_and_bits_in_any_order():
    state = base()
    same = {name: tensor.clone() for name, tensor in reversed(state.items())}
    assert metaq.checksum(state) == metaq.checksum(same)
    others = [
        {**state, "a": torch.tensor([1.0, 0.0, 3.0])},
        {**state, "a": state["a"][None]},
        {**state, "n": state["n"].int()},
        {"a": state["a"], "b": state["b"]},
        {"c": state["a"], "b": state["b"], "n": state["n"]},
    ]
    assert metaq.checksum({"w": torch.zeros(2), "b": torch.ones(1)}).startswith("0ccf89afb1e2")  # as its docstring says
    assert len({metaq.checksum(other) for other in [state, *others]}) == 6


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"b": torch.zeros(2)}, r"tensor 'a': expected shape \(3,\), as in the difference, found no such tensor"),
        (base() | {"a": torch.zeros(3, 1)}, r"tensor 'a': expected shape \(3,\), .*found shape \(3, 1\)"),
        (base() | {"a": torch.tensor([1, 2, 3])}, r"tensor 'a': expected one of float32.*found torch.int64"),
        (
            base() | {"n": torch.tensor(4)},
            r"expected the base [0-9a-f]{12}\.{3}, found [0-9a-f]{12}\.{3}: other weights",
        ),
    ],
)
def test_another_base_is_refused(state, message):
    with pytest.raises(InputError, match=message):
        metaq.apply_difference(difference(a=coded(1, 2, 3)), state)


def test_a_difference_is_no_model_and_a_model_no_difference():
    made = difference(a=coded(1, 2, 3))
    with pytest.raises(InputError, match="expected a whole one, found a difference from"):
        made.decompress()
    with pytest.raises(InputError, match="expected one, found a whole model"):
        metaq.apply_difference(replace(made, base=None), base())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (CompressedModel({"a": coded(1)}, base="12"), "64 hexadecimal digits, found '12'"),
        (
            CompressedModel({"a": replace(coded(1), dtype=torch.bfloat16)}, base="0" * 64),
            "found torch.bfloat16",
        ),
    ],
)
def test_what_no_file_can_hold(made, message):
    with pytest.raises(InputError, match=message):
        encode(made)


def test_infinite_differences_are_refused():
    entry = CodedTensor(torch.tensor([0, 0, 2]), UniformCodebook(3e38), torch.float32)
    with pytest.raises(InputError, match="tensor 'a': expected finite values"):
        metaq.apply_difference(difference(a=entry), base())


def test_files_keep_the_base_and_are_refused_as_models(tmp_path):
    made, path = difference(a=coded(1, 0, -2)), tmp_path / "task.mtq"
    metaq.save(made, path)
    assert read_model(Reader(path.read_bytes(), takes_differences=True)).base == made.base
    message = rf"task.mtq: expected a whole model, found a difference from the base {made.base[:12]}.*metaq.load_into"
    for load in (metaq.load_file, metaq.safe_open, metaq.numpy.load_file):
        with pytest.raises(InputError, match=message):
            load(path)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_load_into_a_model_once(tmp_path):
    model, path = Tied(), tmp_path / "task.mtq"
    before = copy.deepcopy(model.state_dict())
    weight = CodedTensor(torch.eye(3, dtype=torch.int32), STEP, torch.float32)
    tensors = {"first.weight": weight, "second.weight": Alias("first.weight")}
    metaq.save(CompressedModel(tensors, base=metaq.checksum(before)), path)
    metaq.load_into(model, path)
    assert torch.equal(model.second.weight, before["first.weight"] + 0.25 * torch.eye(3))
    assert torch.equal(model.first.bias, before["first.bias"])
    after = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"task.mtq: expected the base.*difference applied"):
        metaq.load_into(model, path)
    with pytest.raises(InputError, match=r"tensor 'first.weight': expected shape \(3, 3\)"):
        metaq.load_into(nn.Linear(3, 3), path)
    assert metaq.checksum(model.state_dict()) == metaq.checksum(after)
