// What a caller will spend on a file that it does not trust.
#pragma once

#include <cstdint>

#include "metaq/format/header.hpp"
#include "metaq/format/tensors.hpp"

namespace metaq {

// A file beyond them is refused before that costs anything. Opening takes time and memory by the bytes of the header before text
// coding, decoding by those of all tensors, each counted once. docs/robustness.md says how much.
struct FileLimits {
    std::uint64_t header_bytes = kHeaderBytesLimit;
    std::uint64_t decoded_bytes = UINT64_MAX;
};

// Of all tensors of a header, as what the file holds of them decodes to; of a changed one the result.
inline std::uint64_t decoded_bytes_of(const FileHeader& header) {
    std::uint64_t total = 0;
    for (const FileTensor& tensor : header.tensors) {
        if (tensor.kind == TensorKind::alias) continue;
        const std::uint64_t common = tensor.change == nullptr ? 0 : tensor.change->common;
        total += tensor.size_bytes() + common * traits_of(tensor.dtype).bytes;
    }
    return total;  // of at most 2^20 tensors of fewer than 2^43 bytes
}

}  // namespace metaq
