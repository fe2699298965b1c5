"""`AutoModel.from_pretrained` on folders that metaq made: the weights are those of the `.mtq` files, bit for bit."""

import json
import logging
import shutil

import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.trainer_utils import validate_quantization_for_training

import metaq
import metaq.integrations.transformers
from metaq.checkpoints import CompressionConfig, FolderKind, compress_path, decompress_path
from metaq.errors import FormatError, InputError
from metaq.io.payload import PAYLOAD

SMALL = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def quiet():
    """Without bars and reports of keys that a model of another head does not have."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()
    transformers.logging.set_verbosity_warning()


def bert():
    config = transformers.BertConfig(**SMALL, num_attention_heads=4)
    return transformers.BertForMaskedLM(config)


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True))


def mixtral():
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SMALL, **HEADS, num_local_experts=3))


MODELS = {"bert": (bert, AutoModelForMaskedLM), "llama": (llama, AutoModelForCausalLM)}
MODELS |= {"mixtral": (mixtral, AutoModelForCausalLM)}


@pytest.fixture(params=[None, "20kB"], ids=["one", "sharded"])
def folders(request, tmp_path):
    """From a model's name to its compressed folder, and to the same weights as floats."""

    def made(name):
        torch.manual_seed(0)
        sizes = {} if request.param is None else {"max_shard_size": request.param}
        MODELS[name][0]().save_pretrained(tmp_path / "model", **sizes)
        compress_path(tmp_path / "model", tmp_path / "mtq", CompressionConfig(bits=4))
        decompress_path(tmp_path / "mtq", tmp_path / "floats")
        compress_path(tmp_path / "model", tmp_path / "small", CompressionConfig(bits=4), kind=FolderKind.SAFETENSORS)
        return tmp_path / "small", tmp_path / "floats"

    return made


def assert_same(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_those_of_the_files(folders, name):
    small, floats = folders(name)
    kind = MODELS[name][1]
    model, info = kind.from_pretrained(small, output_loading_info=True)
    assert not any(info.values())
    assert_same(model, kind.from_pretrained(floats))
    stored = metaq.from_pretrained(small)
    for shard in (small.parent / "mtq").glob("*.mtq"):
        for key, tensor in metaq.load_file(shard).items():
            assert torch.equal(stored[key], tensor)
    assert sum(path.stat().st_size for path in small.iterdir()) < sum(
        path.stat().st_size for path in (small.parent / "model").iterdir()
    )


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_again(folders, name, tmp_path, caplog):
    small, floats = folders(name)
    kind = MODELS[name][1]
    with caplog.at_level(logging.WARNING, "metaq"):
        kind.from_pretrained(small).save_pretrained(tmp_path / "again", max_shard_size="5kB")
    assert not caplog.records
    assert_same(kind.from_pretrained(tmp_path / "again"), kind.from_pretrained(floats))
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "metaq", "version": 1}
    stored = metaq.from_pretrained(small)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in metaq.from_pretrained(tmp_path / "again").items())


def test_other_dtypes_devices_and_heads(folders, tmp_path):
    small, floats = folders("llama")
    for options in ({"dtype": torch.bfloat16}, {"device_map": "cpu"}, {"device_map": "auto", "dtype": "float16"}):
        model = AutoModel.from_pretrained(small, **options)
        assert_same(model, AutoModel.from_pretrained(floats, **options))
    model = AutoModel.from_pretrained(small, dtype=torch.bfloat16)
    model.save_pretrained(small)  # over the files that it was loaded from
    assert_same(AutoModel.from_pretrained(small), model)
    expected = AutoModelForCausalLM.from_pretrained(floats, dtype="bfloat16")
    assert_same(AutoModelForCausalLM.from_pretrained(small), expected)


def test_tied_weights_are_one(folders):
    model = AutoModelForCausalLM.from_pretrained(folders("llama")[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_has_changed_is_saved_as_it_is(folders, tmp_path, caplog):
    small, _ = folders("bert")
    model = AutoModelForMaskedLM.from_pretrained(small)
    model.resize_token_embeddings(130)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight += 1
    with caplog.at_level(logging.WARNING, "metaq"):
        model.save_pretrained(tmp_path / "again")
    assert "bert.encoder.layer.0.output.dense.weight" in caplog.text
    assert "layer.1" not in caplog.text
    assert_same(AutoModelForMaskedLM.from_pretrained(tmp_path / "again"), model)


def test_saved_as_floats(folders, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folders("mixtral")[0])
    model.dequantize().save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "again"), model)


def test_it_can_be_trained(folders):
    model = AutoModelForCausalLM.from_pretrained(folders("llama")[0])
    validate_quantization_for_training(model)
    tokens = torch.arange(12).reshape(2, 6)
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.half().dtype == torch.float16


def test_files_that_are_gone(folders, tmp_path):
    small, _ = folders("llama")
    model = AutoModelForCausalLM.from_pretrained(small)
    shutil.rmtree(small)
    with pytest.raises(InputError, match=r"files that the model was loaded from: .*keep them until the model is saved"):
        model.save_pretrained(tmp_path / "again")


def test_decompressed(folders, tmp_path):
    small, floats = folders("mixtral")
    decompress_path(small, tmp_path / "back")
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "back"), AutoModelForCausalLM.from_pretrained(floats))


def test_float_weights_are_not_quantized_on_the_way(tmp_path):
    llama().save_pretrained(tmp_path)
    quantization = metaq.integrations.transformers.MetaqConfig()
    with pytest.raises(InputError, match=r"found float weights; compress it by `metaq compress FOLDER -o OUTPUT --as"):
        AutoModel.from_pretrained(tmp_path, quantization_config=quantization)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def harm(path):
    """Change a byte near the end of the payload."""
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def test_bad_folders(tmp_path):
    llama().save_pretrained(tmp_path / "model")
    compress_path(tmp_path / "model", tmp_path / "small", CompressionConfig(bits=4), kind=FolderKind.SAFETENSORS)
    config = (tmp_path / "small" / "config.json").read_text()
    edit(tmp_path / "small" / "config.json", lambda content: content["quantization_config"].update(version=2))
    with pytest.raises(InputError, match="expected quantization_config version 1, found 2; a newer metaq may read it"):
        AutoModel.from_pretrained(tmp_path / "small")
    (tmp_path / "small" / "config.json").write_text(config)
    with pytest.raises(InputError, match="device_map: expected devices that hold all weights, found a disk"):
        AutoModel.from_pretrained(tmp_path / "small", device_map={"": "disk"}, offload_folder=tmp_path / "offloaded")
    shutil.copytree(tmp_path / "small", tmp_path / "floats")
    shutil.copyfile(tmp_path / "model" / "model.safetensors", tmp_path / "floats" / "model.safetensors")
    with pytest.raises(InputError, match=f"floats: expected a tensor '{PAYLOAD}0' in its files, found none"):
        AutoModel.from_pretrained(tmp_path / "floats")
    harm(tmp_path / "small" / "model.safetensors")
    with pytest.raises(FormatError, match=r"metaq\.payload\.0: expected chunk") as failure:
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert "\n" not in str(failure.value)


def test_a_model_is_saved_as_a_folder_for_the_library(tmp_path):
    torch.manual_seed(0)
    model = llama()
    size_bytes = metaq.save_pretrained(model, tmp_path / "small", CompressionConfig(bits=5))
    assert size_bytes == (tmp_path / "small" / "model.safetensors").stat().st_size
    assert (tmp_path / "small" / "generation_config.json").is_file()
    expected = metaq.compress_state_dict(model.state_dict(), CompressionConfig(bits=5)).decompress()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert metaq.from_pretrained(tmp_path / "small", model) is model
    assert_same(model, loaded)
    card = (tmp_path / "small" / "README.md").read_text()
    assert "LlamaForCausalLM.from_pretrained" in card
    assert "relative squared error" in card


def test_a_compressed_model_beside_the_files_of_another(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\ntags:\n  - x\n---\n# A model\n")
    compressed = metaq.compress_state_dict(model.state_dict())
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "README.md").write_text("mine\n")
    metaq.save_pretrained(compressed, tmp_path / "small", source=tmp_path / "model")
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    }
    assert (tmp_path / "small" / "README.md").read_text() == "mine\n"
    metaq.save_pretrained(compressed, tmp_path / "small", source=tmp_path / "model", force=True)
    card = (tmp_path / "small" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\ntags:\n  - metaq\n  - x\nlibrary_name: transformers\n---\n")
    assert card.endswith("\n# A model\n")
    expected = compressed.decompress()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "small").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_folder_of_mtq_files_becomes_one_for_the_library(folders, tmp_path):
    small, floats = folders("mixtral")
    metaq.save_pretrained(small.parent / "mtq", tmp_path / "wrapped")
    for shard in small.glob("*.safetensors"):
        assert (tmp_path / "wrapped" / shard.name).read_bytes() == shard.read_bytes()
    expected = AutoModelForCausalLM.from_pretrained(floats)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "wrapped"), expected)
    metaq.save_pretrained(expected, tmp_path / "wrapped")  # one file, where several may have been
    assert len(list(tmp_path.glob("wrapped/*.safetensors*"))) == 1
    with pytest.raises(InputError, match="expected no such folder or one that metaq made"):
        metaq.save_pretrained(expected, floats)
