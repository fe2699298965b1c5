"""What every method promises. `CHECKS` are functions of a method's configuration; run a new method through them all."""

import copy
import io
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import metaq
from metaq.assign import check_symbols, reconstruct
from metaq.compressed_model import read_model
from metaq.errors import InputError
from metaq.format.reader import Reader

STEPS, LAST_PHASE, EPOCH = 12, 8, 4  # training steps in all, before the last phase, in an epoch
INPUTS = torch.randn(64, 12, generator=torch.Generator().manual_seed(9))
LABELS = torch.arange(64) % 4


class Training:
    """A network with batch normalisation in training, one method, one optimizer; the same seed gives the same run."""

    def __init__(self, method, seed=0):
        self.model = self.network(seed)
        self.base = copy.deepcopy(self.model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        optimizer = self.optimizer if isinstance(method, metaq.Difference) else None
        self.compressor = metaq.Compressor(self.model, method, optimizer, training_steps=STEPS)
        self.compressor.last_phase_step = None
        self.steps_done = 0

    @staticmethod
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))

    def loss(self):
        return nn.functional.cross_entropy(self.model(INPUTS), LABELS)

    def step(self, disturb=None):
        """One training step; ``disturb`` is called before it and again between its backward pass and `regularize`."""
        disturb = disturb or (lambda _: None)
        if self.steps_done == LAST_PHASE:
            self.compressor.begin_last_phase()
        disturb(self)
        self.model.train()
        self.optimizer.zero_grad()
        self.loss().backward()
        disturb(self)
        self.compressor.regularize()
        self.optimizer.step()
        self.steps_done += 1
        if self.steps_done % EPOCH == 0:
            self.compressor.end_epoch(self.evaluate)

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            return float(self.loss())

    def write(self, path):
        metaq.save(self.compressor.compress(), path, coder="rans")

    def file(self):
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder, "model.mtq"))
            return Path(folder, "model.mtq").read_bytes()

    def decoded(self):
        """The tensors of the file, applied to the base where it is a difference."""
        read = read_model(Reader(self.file(), takes_differences=True))
        return read.decompress() if read.base is None else metaq.apply_difference(read, self.base)

    def latent_weights(self):
        return {name: self.compressor.bound.latent_weights(name).clone() for name in self.compressor.bound.parameters}

    def state(self):
        """A checkpoint's file."""
        buffer = io.BytesIO()
        parts = self.model.state_dict(), self.optimizer.state_dict(), self.compressor.state_dict(), self.steps_done
        torch.save(parts, buffer)
        return buffer

    @classmethod
    def resumed(cls, method, checkpoint):
        checkpoint.seek(0)
        state = torch.load(checkpoint, weights_only=True)
        training = cls(method, seed=1)
        training.model.load_state_dict(state[0])
        training.optimizer.load_state_dict(state[1])
        training.compressor.load_state_dict(state[2])
        training.steps_done = state[3]
        return training


def evaluate_in_every_way(training):
    """Evaluation, compression and checkpoints in any order, some of which fail."""
    training.compressor.compress()
    training.evaluate()
    training.evaluate()
    with torch.inference_mode():
        training.model(INPUTS)
    training.compressor.compress()
    training.state()
    hook = training.model[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.evaluate()
    hook.remove()
    training.model.train()
    training.compressor.compress()
    training.model.eval()


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def check_evaluation_has_the_weights_of_the_file(method):
    """In evaluation mode weights and outputs are those of a network into which the file was loaded."""
    training = Training(method)
    for _ in range(STEPS):
        training.step()
        training.model.eval()
        outputs = training.model(INPUTS)
        decoded = training.decoded()
        assert_same(decoded, training.model.state_dict())
        plain = Training.network(seed=1).eval()
        plain.load_state_dict(decoded)
        assert torch.equal(outputs, plain(INPUTS))


def check_evaluation_changes_no_training(method):
    """However often a network is evaluated, compressed or saved, training goes on to the same bits."""
    plain, disturbed = Training(method), Training(method)
    for _ in range(STEPS):
        plain.step()
        disturbed.step(evaluate_in_every_way)
        assert_same(plain.latent_weights(), disturbed.latent_weights())
    assert plain.file() == disturbed.file()


def check_checkpoints_resume(method):
    """A run that starts from any checkpoint ends at the same file, whether it was saved in training or evaluation."""
    whole = Training(method)
    checkpoints = []
    for _ in range(STEPS):
        whole.step()
        checkpoints.append(whole.state())
        whole.evaluate()
        checkpoints.append(whole.state())
    expected = whole.file()
    for checkpoint in checkpoints[1::5]:
        training = Training.resumed(method, checkpoint)
        while training.steps_done < STEPS:
            training.step()
        assert training.file() == expected


def check_symbols_are_in_range(method):
    """Symbols are int32 in the parameter's shape, each stands for a level, and equal weights give equal symbols."""
    training = Training(method)
    for _ in range(STEPS):
        training.step()
        training.evaluate()
        bound = training.compressor.bound
        for name, parameter in bound.parameters.items():
            quantized = bound.quantize_parameter(name, bound.latent_weights(name))
            if quantized is None:
                continue
            codebook, symbols = quantized
            assert (symbols.dtype, symbols.shape) == (torch.int32, parameter.shape)
            check_symbols(symbols, codebook, parameter.dtype)
            assert torch.equal(reconstruct(symbols, codebook, parameter.dtype), parameter)
            assert torch.equal(bound.quantize_parameter(name, bound.latent_weights(name))[1], symbols)


def check_buffers_are_kept(method):
    """Running statistics are in the file as they are."""
    training = Training(method)
    training.step()
    decoded = training.decoded()
    for name, buffer in training.model.named_buffers():
        assert torch.equal(decoded[name], buffer), name


def check_equal_seeds_give_equal_files(method):
    """The same seed gives the same file."""
    files = []
    for _ in range(2):
        training = Training(method)
        for _ in range(STEPS):
            training.step()
        files.append(training.file())
    assert files[0] == files[1]


def check_a_lost_step_is_refused(method):
    """A step of the optimizer on the weights of the file would be lost: the next forward pass says so."""
    training = Training(method)
    training.step()
    training.evaluate()

    def lose_a_step():
        training.optimizer.step()  # is refused already if the compressor has the optimizer
        training.step()

    with pytest.raises(InputError, match=r"expected (the weights of the file.*call )?regularize"):
        lose_a_step()


def check_zeros_stay_in_the_last_phase(method):
    """For methods that prune: what is zero in the file when the last phase begins stays zero. Not in `CHECKS`."""
    training = Training(method)
    for _ in range(LAST_PHASE):
        training.step()
    training.compressor.begin_last_phase()
    zeros = {name: tensor == 0 for name, tensor in training.decoded().items() if tensor.is_floating_point()}
    for _ in range(STEPS):
        training.optimizer.zero_grad()
        training.model.train()
        training.loss().backward()
        training.compressor.regularize()
        training.optimizer.step()
        decoded = training.decoded()
        for name in training.compressor.bound.parameters:
            assert not bool(decoded[name][zeros[name]].any()), name


CHECKS = [
    check_evaluation_has_the_weights_of_the_file,
    check_evaluation_changes_no_training,
    check_checkpoints_resume,
    check_symbols_are_in_range,
    check_buffers_are_kept,
    check_equal_seeds_give_equal_files,
    check_a_lost_step_is_refused,
]
