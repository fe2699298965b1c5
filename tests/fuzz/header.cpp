// Fuzz target: headers as they are before text coding, which is slow and hides what a change of bytes does.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "metaq/format/header.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    metaq::FileHeader header;
    if (metaq::HeaderReader(std::span(bytes, size)).read(header) != metaq::FileStatus::ok) return 0;
    for (const metaq::FileTensor& tensor : header.tensors) {
        const bool is_target = tensor.target < header.tensors.size() && tensor.size() < metaq::kElementsLimit;
        const bool has_codebook = tensor.kind != metaq::TensorKind::coded || tensor.codebook < header.codebooks.size();
        if (!is_target || !has_codebook) std::abort();
    }
    return 0;
}
