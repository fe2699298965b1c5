"""`metaq.load_file` on a GPU, where there is one: the kernel decodes, and the bits are the CPU's."""

import pytest
import torch

import metaq

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("chunk_symbols", [None, 1 << 16, 1000])
def test_a_gpu_decodes_the_same_bits(tmp_path, monkeypatch, caplog, chunk_symbols):
    pytest.importorskip("triton")
    from metaq.gpu.streams import Streams

    good = []
    launch = Streams._launch
    monkeypatch.setattr(Streams, "_launch", lambda *given: good.append(launch(*given).all()) or launch(*given))
    state = {"w": torch.randn(700, 400).bfloat16(), "v": torch.randn(3000), "n": torch.arange(50)}
    compressed = metaq.compress_state_dict({"w": torch.randn(300, 400)}, metaq.CompressionConfig(bits=3))
    for model in (metaq.compress_losslessly(state), compressed):
        metaq.save(model, tmp_path / "model.mtq", "rans", chunk_symbols)
        expected = metaq.load_file(tmp_path / "model.mtq")
        found = metaq.load_file(tmp_path / "model.mtq", device="cuda")
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert found[name].is_cuda
            assert torch.equal(found[name].cpu().view(torch.uint8), tensor.view(torch.uint8)), name
    assert good
    assert all(good)
    assert not caplog.records
