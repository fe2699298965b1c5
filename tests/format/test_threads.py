"""Many threads, and a forked process, on one open file."""

import os
import threading

import numpy as np
import pytest

import metaq.numpy
from metaq import coding

GENERATOR = np.random.default_rng(0)
ARRAYS = {f"{i}": np.rint(GENERATOR.normal(0, 2, (20, 30))).astype(np.int8) for i in range(8)}


@pytest.fixture(params=["rans", "adaptive", "lzma"])
def path(request, tmp_path):
    metaq.numpy.save_file(ARRAYS, tmp_path / "file.mtq", coder=coding.by_name(request.param).name)
    return tmp_path / "file.mtq"


def wrong_tensors(file, first):
    """Names of tensors that are not what they should be, whole and in rows, in the file's order and in another."""
    names = [*ARRAYS, *list(ARRAYS)[first:], *reversed(ARRAYS)]
    wrong = [name for name in names if not np.array_equal(file.get_tensor(name), ARRAYS[name])]
    return wrong + [name for name in names if not np.array_equal(file.get_slice(name)[3:9], ARRAYS[name][3:9])]


def test_many_threads_share_an_open_file(path):
    wrong = []
    with metaq.numpy.safe_open(path) as file:

        def work(first):
            try:
                wrong.extend(wrong_tensors(file, first))
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_shares_an_open_file(path):
    with metaq.numpy.safe_open(path) as file:
        assert wrong_tensors(file, 0) == []
        child = os.fork()
        if child == 0:
            os._exit(len(wrong_tensors(file, 2)))
        assert wrong_tensors(file, 1) == []
        assert os.waitpid(child, 0)[1] == 0
