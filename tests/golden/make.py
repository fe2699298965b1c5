"""The golden files' models, and `python tests/golden/make.py`, which writes every golden file anew.

Golden files hold what today's encoders write, and change with them; those of tests/compatibility, which every later
release reads, never do.
"""

import io
from pathlib import Path

import torch

from metaq import compressed_model
from metaq.checkpoints import delta
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.differences import checksum
from metaq.matrix_layout import MatrixLayout
from metaq.quantizers.lossless import compress_losslessly
from metaq.update_log import DeltaWriter

FOLDER = Path(__file__).parent
CODERS = ["stored", "huffman", "range", "mixing", "gzip", "zstd", "lzma", "rans", "adaptive"]
CODED_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KEPT_DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGER_DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def hashed(*shape: int, seed: int) -> torch.Tensor:
    """Integers from 0 to 2^32 - 1, the same on every machine and with every version of everything."""
    count = int(torch.tensor(shape, dtype=torch.int64).prod()) if shape else 1
    values = (torch.arange(count, dtype=torch.int64) + 1 + 1000 * seed) * 2654435761 % 2**32
    values = (values ^ values >> 15) * 739982445 % 2**32
    return ((values ^ values >> 12) % 2**32).reshape(shape)


def skewed(*shape: int, seed: int) -> torch.Tensor:
    """Symbols as quantized weights have them: mostly 0, falling off on both sides."""
    values = hashed(*shape, seed=seed)
    size = sum((values % 1021 < limit).to(torch.int32) for limit in (400, 120, 40, 12, 3))
    return torch.where(values >> 20 & 1 == 1, size, -size).to(torch.int32)


def network() -> CompressedModel:
    """A small network: filters and matrices on one step, biases kept, one table, one tied tensor, metadata."""
    step, table = UniformCodebook(0.03125), TableCodebook((-1.5, -0.25, 0.0, 0.1, 0.5, 2.0), 2)
    return CompressedModel(
        {
            "features.0.weight": CodedTensor(skewed(6, 1, 5, 5, seed=1), step, torch.float32),
            "features.0.bias": hashed(6, seed=2).to(torch.float32) / 2.0**33,
            "features.1.running_mean": hashed(6, seed=3).to(torch.float32) / 2.0**34 - 0.1,
            "features.1.num_batches_tracked": CodedTensor(torch.tensor(960).int(), IntegerCodebook(), torch.int64),
            "classifier.weight": CodedTensor(skewed(10, 84, seed=4), step, torch.bfloat16),
            "classifier.table": CodedTensor(skewed(8, 9, seed=5).clamp(-2, 3), table, torch.float16),
            "decoder.weight": Alias("classifier.weight"),
        },
        {"recipe": "golden", "naïve": "✓\n"},
    )


def every_dtype() -> CompressedModel:
    """Every dtype kept, with every kind of bit pattern, and every integer one coded."""
    tensors: dict[str, CodedTensor | torch.Tensor | Alias] = {}
    for seed, dtype in enumerate(KEPT_DTYPES + INTEGER_DTYPES):
        octets = hashed(3 * 4 * dtype.itemsize, seed=10 + seed).to(torch.uint8)
        tensors[f"kept {dtype}"] = octets.view(dtype).reshape(3, 4)
    for seed, dtype in enumerate([*INTEGER_DTYPES, torch.bool]):
        symbols = hashed(5, 3, seed=30 + seed).to(torch.int32) % 2
        tensors[f"coded {dtype}"] = CodedTensor(symbols, IntegerCodebook(), dtype)
    limits = torch.tensor([1 - 2**30, 0, 2**30 - 1], dtype=torch.int32)
    tensors["limits"] = CodedTensor(limits, IntegerCodebook(), torch.int64)
    special = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 2.0**-149, -3.4028234663852886e38]
    return CompressedModel({**tensors, "special": torch.tensor(special)})


def shapes() -> CompressedModel:
    """Shapes at their edges: scalars, nothing, 32 dimensions, and names at theirs."""
    step = UniformCodebook(2.0**-149)
    tensors: dict[str, CodedTensor | torch.Tensor | Alias] = {"": torch.tensor(1.5), "\0": torch.empty(0)}
    for shape in [(), (0,), (1,), (3, 0, 2), (0, 2**39), (1,) * 32, (2, 1, 1, 3)]:
        tensors[f"coded {len(tensors)}"] = CodedTensor(skewed(*shape, seed=40), step, torch.float32)
        tensors[f"kept {len(tensors)}"] = hashed(*shape, seed=41).to(torch.float16)
    return CompressedModel(tensors)


def lossless() -> CompressedModel:
    """Weights as they are: exponents as a normal distribution has them, in planes; and a codebook of few values."""
    sizes = sum(hashed(24, 20, seed=50 + i).double() for i in range(8)) / 2.0**34 - 1
    few = torch.tensor([-1.25, 0.5, 2.0**-100, 3.0])[hashed(30, 40, seed=60) % 4]
    weights = {str(dtype): sizes.to(dtype) for dtype in KEPT_DTYPES}
    return compress_losslessly({**weights, "few": few, "few, short": few.to(torch.bfloat16)})


def sparse() -> CompressedModel:
    """A matrix most of whose rows and columns are zero: the mixing coder takes another rate than its first."""
    used = (torch.arange(300) % 7 == 0)[:, None] & (torch.arange(200) % 5 == 0)
    symbols = torch.where(used, hashed(300, 200, seed=70).to(torch.int32) % 5 - 2, 0)
    return CompressedModel({"sparse": CodedTensor(symbols, UniformCodebook(0.03125), torch.float32)})


MACHINES = {
    4: [(0, 1), (2, 3), (1, 0), (3, 2)],
    8: [(0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5)],
}


def dependent_symbols(indices: torch.Tensor, states: int) -> torch.Tensor:
    """The symbols of dependent quantizers with these indices: row by row, 2 index - sign(index) * (state mod 2)."""
    rows = []
    for row in indices.reshape(len(indices), -1).tolist():
        state = 0
        for index in row:
            rows.append(2 * index - (index > 0) * (state % 2) + (index < 0) * (state % 2))
            state = MACHINES[states][state][index % 2]
    return torch.tensor(rows, dtype=torch.int32).reshape(indices.shape)


def dependent() -> CompressedModel:
    """Symbols of four and of eight states between free ones, all in one chunk."""
    step = UniformCodebook(0.03125)
    shapes = {"four": ((12, 6, 3, 3), 4), "eight": ((30, 24), 8), "large": ((9, 40), 8)}
    tensors: dict[str, CodedTensor | torch.Tensor | Alias] = {
        name: CodedTensor(
            dependent_symbols((1 + 40 * (name == "large")) * skewed(*shape, seed=80), states), step, dtype
        )
        for (name, (shape, states)), dtype in zip(shapes.items(), CODED_DTYPES, strict=True)
    }
    tensors["free"] = CodedTensor(skewed(20, 20, seed=81), step, torch.float32)
    tensors["again"] = CodedTensor(dependent_symbols(skewed(200, 1, seed=82), 8), step, torch.float32)
    return CompressedModel(tensors)


def logs(count: int, seed: int) -> torch.Tensor:
    """Eighths of an octave, from -128 to 127."""
    return hashed(count, seed=seed) % 256 - 128


def scaled() -> CompressedModel:
    """Matrices of every dtype, with scales of rows, of columns, of both and of none, scanned by rows and by columns."""
    step = UniformCodebook(0.0625)
    few = logs(40, seed=90) // 16
    filters, matrix = skewed(8, 3, 3, 3, seed=91), skewed(24, 40, seed=92)
    path = dependent_symbols(skewed(20, 12, seed=93), 8).T.contiguous()
    return CompressedModel(
        {
            "rows": CodedTensor(filters, step, torch.float32, MatrixLayout(1, few[:8])),
            "columns": CodedTensor(filters, step, torch.float64, MatrixLayout(2, None, few[:9])),
            "both": CodedTensor(matrix, step, torch.float32, MatrixLayout(1, few[:24], few)),
            "plain": CodedTensor(matrix, step, torch.float32),
            "both, by columns": CodedTensor(matrix, step, torch.bfloat16, MatrixLayout(1, few[:24], few, True)),
            "by columns": CodedTensor(filters, step, torch.float16, MatrixLayout(3, None, None, True)),
            "rows, by columns": CodedTensor(path, step, torch.float32, MatrixLayout(1, few[:12], None, True)),
            "extremes": CodedTensor(matrix, step, torch.float16, MatrixLayout(1, logs(24, 94), logs(40, 95), True)),
            "tied": Alias("both, by columns"),
        }
    )


def base() -> dict[str, torch.Tensor]:
    """A base of every dtype that differences are of, with elements that stay as they are; tied weights, a counter."""
    filters = hashed(6, 3, 3, 3, seed=100).double() / 2.0**32 - 0.5
    head = (hashed(10, 24, seed=101).double() / 2.0**31 - 1).to(torch.bfloat16)
    special = torch.tensor([-0.0, 0.0, 2.0**-149, float("nan"), float("inf"), 3.4e38])
    return {
        "features.weight": filters.float(),
        "features.bias": torch.zeros(6),
        "norm.weight": torch.ones(24, dtype=torch.float16),
        "norm.running_mean": filters.float()[0, 0, 0],
        "norm.num_batches_tracked": torch.tensor(7),
        "head.weight": head,
        "wide": filters.reshape(-1)[:20].clone(),
        "special": special,
        "same": torch.arange(5.0),
        "tied.weight": head,
    }


def task() -> CompressedModel:
    """A difference from that base, with a tensor of every kind, and one that is new."""
    step, table = UniformCodebook(0.02734375), TableCodebook((-0.7, -0.1, -0.0, 0.001), 2)
    symbols = {"features.weight": skewed(6, 3, 3, 3, seed=110), "features.bias": skewed(6, seed=111)}
    tensors: dict[str, CodedTensor | torch.Tensor | Alias] = {
        name: CodedTensor(of_name, step, torch.float32) for name, of_name in symbols.items()
    }
    return CompressedModel(
        {
            **tensors,
            "norm.weight": CodedTensor(skewed(24, seed=112).clamp(-2, 1), table, torch.float32),
            "norm.running_mean": torch.tensor([0.25, -1.0, 2.0**-130]),
            "norm.num_batches_tracked": CodedTensor(torch.tensor(967).int(), IntegerCodebook(), torch.int64),
            "head.weight": CodedTensor(
                skewed(10, 24, seed=113), step, torch.float32, MatrixLayout(1, logs(10, 114) // 16)
            ),
            "wide": CodedTensor(skewed(20, seed=115), step, torch.float32),
            "special": CodedTensor(torch.tensor([0, 1, 0, 5, -3, 1000]).int(), UniformCodebook(1e35), torch.float32),
            "tied.weight": Alias("head.weight"),
            "new": torch.tensor([1.5, -0.0]).to(torch.bfloat16),
        },
        {"task": "golden"},
        base=checksum(base()),
    )


def lossless_base() -> dict[str, torch.Tensor]:
    """The tensors of a golden network, and others of every dtype that tensors change in, with odd bits."""
    noise = hashed(600, seed=130)
    floats = noise.double() / 2.0**31 - 1
    floats = floats * floats * floats
    return {
        **network().decompress(),
        "float16": floats.half(),
        "bfloat16": floats.to(torch.bfloat16).reshape(30, 20),
        "float64": floats,
        "e4m3": floats.to(torch.float8_e4m3fn),
        "e5m2": floats.to(torch.float8_e5m2),
        "int16": (noise % 3000).short(),
        "int64": noise << 30,
        "uint8": (noise % 256).to(torch.uint8),
        "special": torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 2.0**-149, 1.0, -1.0] * 9),
        "flag": torch.tensor([True, False]),
        "gone": torch.ones(3),
        "before": floats.float(),
    }


def lossless_new() -> dict[str, torch.Tensor]:
    """What a step of training and some surgery make of it: every kind of change."""
    base = lossless_base()
    new = {name: tensor for name, tensor in base.items() if name not in ("gone", "before")}
    for name in ("features.0.weight", "classifier.weight", "float16", "bfloat16", "float64", "e4m3", "e5m2"):
        noise = hashed(*base[name].shape, seed=131).double() / 2.0**31 - 1
        cubed = noise * noise * noise
        new[name] = (base[name].double() * (1 + cubed * cubed / 4)).to(base[name].dtype)
    new["decoder.weight"] = new["classifier.weight"]  # tied in both
    new["int16"] = base["int16"] + (hashed(600, seed=132) % 50 == 0).short()
    new["int64"] = base["int64"] - (hashed(600, seed=133) % 2 << 20)
    new["uint8"] = torch.cat([base["uint8"][:400] + 1, base["uint8"][:50]])
    new["bfloat16"] = torch.cat([new["bfloat16"], new["bfloat16"][:4] * 2])
    new["special"] = base["special"].flip(0)
    new["flag"] = ~base["flag"]
    new["after"] = base["before"].reshape(3, 200)
    new["fresh"] = base["float64"][:7].float()
    return new


MODELS = {
    "every-dtype": every_dtype,
    "shapes": shapes,
    "sparse": sparse,
    "dependent": dependent,
    "scaled": scaled,
    "nothing": lambda: CompressedModel({}),
}


def files() -> dict[str, tuple[CompressedModel, str]]:
    """Each golden file's model and coder."""
    golden = {f"network-{coder}.mtq": (network(), coder) for coder in CODERS}
    golden["lossless-rans.mtq"] = lossless(), "rans"
    golden["dependent-adaptive.mtq"] = dependent(), "adaptive"
    golden["differences/task.mtq"] = task(), "mixing"
    return golden | {f"{name}.mtq": (make(), "mixing") for name, make in MODELS.items()}


LOSSLESS = "differences/lossless.mtq"


def lossless_file() -> bytes:
    """The golden difference without loss."""
    return delta(lossless_base(), lossless_new(), {"step": "1"})


LOG = "differences/steps.mtql"


def log_steps() -> list[dict[str, torch.Tensor]]:
    """The base of the difference without loss, what it makes of it, and that with a tensor moved."""
    new = lossless_new()
    return [lossless_base(), new, new | {"fresh": new["fresh"] + 1}]


def log_file() -> bytes:
    """The golden update log: a keyframe, a difference and a keyframe."""
    file = io.BytesIO()
    with DeltaWriter(file, keyframe_every=2) as log:
        for place, state in enumerate(log_steps()):
            log.append(state, 100 * place, {"place": str(place)})
    return file.getvalue()


def main() -> None:
    """Write them all."""
    (FOLDER / LOG).write_bytes(log_file())
    (FOLDER / LOSSLESS).write_bytes(lossless_file())
    for name, (model, coder) in files().items():
        (FOLDER / name).write_bytes(compressed_model.encode(model, coder))


if __name__ == "__main__":
    main()
