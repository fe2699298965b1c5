"""Decoding on a GPU: rANS streams by a kernel of Triton, and all that follows by torch.

A chunk is decoded by one warp, each lane of its stream by one thread, and many chunks at once. So files are for it
whose chunks are small: `metaq.save(model, path, "rans", chunk_symbols=1 << 16)` makes of 20 million symbols 300 chunks
of 32 lanes. What the kernel does not take, which is chunks of other coders, the CPU decodes and sends.
"""

from metaq.gpu.loading import load_tensors_on

__all__ = ["load_tensors_on"]
