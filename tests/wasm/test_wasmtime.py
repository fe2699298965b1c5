"""The modules in wasmtime, an engine without JavaScript: the same values, and errors where memory ends."""

import importlib.util
import struct

import numpy as np
import pytest

from .expected import GOLDEN, tensors
from .package import BUILDS, built_package, needs_zig

NO_MEMORY = 52
STACK_END = 0x50000
LOOPS = ["decode_steps", "decode_free_band", "decode_dependent_band", "decode_free_row", "decode_dependent_row"]
OUTPUT = struct.Struct("<IIQQII")  # metaq_output

pytestmark = [
    pytest.mark.slow,
    needs_zig,
    pytest.mark.skipif(importlib.util.find_spec("wasmtime") is None, reason="no wasmtime"),
]


@pytest.fixture(scope="module")
def compiled():
    """An engine and, by name, what it makes of the modules."""
    import wasmtime

    engine = wasmtime.Engine()
    paths = {name: built_package() / "dist" / f"metaq.{name}.wasm" for name in BUILDS["simd"]}
    return engine, {name: wasmtime.Module.from_file(engine, str(path)) for name, path in paths.items()}


class Module:
    """A build whose memory has a limit, and which reads the file that is given."""

    def __init__(self, compiled, build, data, limit_bytes):
        import wasmtime

        engine, modules = compiled
        self.data, self.store = data, wasmtime.Store(engine)
        self.store.set_limits(memory_size=limit_bytes)
        linker, i32 = wasmtime.Linker(engine), wasmtime.ValType.i32()
        kind = wasmtime.FuncType([i32, wasmtime.ValType.f64(), i32, i32], [i32])
        linker.define_func("metaq", "read", kind, self.read)
        self.exports = linker.instantiate(self.store, modules["plain"]).exports(self.store)
        self.memory = self.exports["memory"]
        self.exports["_initialize"](self.store)
        if build == "simd":
            self.take_loops(linker, modules["simd"])

    # As metaq.js does.
    def take_loops(self, linker, module):
        table = self.exports["__indirect_function_table"]
        for name, shared in (("memory", self.memory), ("__indirect_function_table", table)):
            linker.define(self.store, "env", name, shared)
        loops = linker.instantiate(self.store, module).exports(self.store)
        loops["__stack_pointer"].set_value(self.store, STACK_END)
        loops["_initialize"](self.store)
        places = [table.grow(self.store, 1, loops[name]) for name in LOOPS]
        loops["use_allocator"](self.store, self.call("wasm_use_loops", *places))

    def call(self, name, *arguments):
        return self.exports[f"metaq_{name}"](self.store, *arguments)

    def read(self, _source, offset, out, size):
        self.memory.write(self.store, self.data[int(offset) : int(offset) + size], out)
        return 0

    def open(self):
        return self.call("wasm_open", 1, float(len(self.data)), 0)

    def status(self):
        return int.from_bytes(self.memory.read(self.store, *self.span(self.call("wasm_error") + 4, 4)), "little")

    @staticmethod
    def span(address, size):
        return address, address + size

    def decode(self, file, index):
        """The tensor's bytes, or None."""
        described = self.memory.read(self.store, *self.span(self.call("wasm_tensor", file, index), 88))
        (size_bytes,) = struct.unpack_from("<Q", described, 40)
        place = self.call("wasm_allocate", OUTPUT.size + size_bytes)
        if place == 0:
            return None
        everything = 2**64 - 1
        output = OUTPUT.pack(OUTPUT.size, index, 0, everything, place + OUTPUT.size, size_bytes)
        self.memory.write(self.store, output, place)
        status = self.call("wasm_decode", file, place, 1)
        return None if status else bytes(self.memory.read(self.store, *self.span(place + OUTPUT.size, size_bytes)))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files(compiled, build, path):
    module = Module(compiled, build, path.read_bytes(), 2**26)
    file = module.open()
    expected = tensors(path.read_bytes())
    assert module.call("tensor_count", file) == len(expected)
    assert [module.decode(file, i).hex() for i in range(len(expected))] == [tensor["hex"] for tensor in expected]
    module.call("close", file)


def test_memory_that_ends_is_an_error(compiled, tmp_path):
    import metaq.numpy

    weights = np.random.default_rng(0).normal(size=2**20).astype(np.float32)
    metaq.numpy.save_file({"weights": weights}, tmp_path / "model.mtq", coder="rans")
    data = (tmp_path / "model.mtq").read_bytes()
    outcomes = set()
    for limit in range(5 * 2**17, 2**25, 3 * 2**19):
        module = Module(compiled, "plain", data, limit)
        file = module.open()
        found = module.decode(file, 0) if file else None
        outcomes.add("open" if not file else "decode" if found is None else "enough")
        if found is None:
            assert not file or module.status() in (0, NO_MEMORY)
            assert file or module.status() == NO_MEMORY
        else:
            assert found == weights.tobytes()
    assert outcomes == {"open", "decode", "enough"}
