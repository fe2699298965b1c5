"""What the package has to make of the golden and of the malformed files: what NumPy and C++ make of them."""

import malformed_files as malformed

import metaq.numpy

from .package import ROOT

OF_OTHERS = ("gzip", "zstd", "lzma")
GOLDEN = [path for path in sorted((ROOT / "tests" / "golden").glob("*.mtq")) if not path.stem.endswith(OF_OTHERS)]
# What Python takes and the browser does not.
UNSUPPORTED = {
    "status": "unsupported_coder",
    "words": "coder not supported in this decoder: "
    "it reads stored, Huffman, range, mixing, adaptive, rans and difference chunks",
}
DIFFERENCE = {
    "status": "difference",
    "words": "expected a whole model, found a difference, which is nothing without its base",
}


def refusal(data: bytes) -> dict[str, str]:
    error = malformed.first_error(data)
    return {"status": error.status, "words": error.words}


def tensors(data: bytes) -> list[dict[str, object]]:
    return [
        {"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "hex": array.tobytes().hex()}
        for name, array in metaq.numpy.load(data).items()
    ]


def by_name(described: dict) -> dict:
    """Of a file that came as a stream, whose tensors come in another order."""
    if "tensors" in described:
        described["tensors"] = sorted(described["tensors"], key=lambda tensor: tensor["name"])
    return described


def cases() -> list[tuple[bytes, dict]]:
    """Files, and what describe.mjs says of them."""
    good = [path.read_bytes() for path in GOLDEN]
    bad = [data for _, data in malformed.files()]
    not_taken = [(data, UNSUPPORTED) for data in malformed.UNSUPPORTED] + [(malformed.GOOD_DIFFERENCE, DIFFERENCE)]
    good[:0] = [malformed.GOOD, malformed.GOOD_SCALED]
    return [
        *((data, {"tensors": tensors(data)}) for data in good),
        *((data, refusal(data)) for data in bad),
        *not_taken,
    ]
