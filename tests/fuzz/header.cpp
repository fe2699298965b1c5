// Fuzz target: headers as they are before text coding, which is slow and hides what a change of bytes does.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "metaq/format/header.hpp"

namespace {

bool has_good_matrix(const metaq::FileTensor& tensor) {
    if (tensor.kind != metaq::TensorKind::scaled) return tensor.matrix == nullptr;
    const metaq::FileMatrix& matrix = *tensor.matrix;
    const auto fits = [](std::span<const std::uint8_t> logs, std::uint64_t count) {
        return logs.empty() || logs.size() == count;
    };
    return tensor.size() > 0 && matrix.rows * matrix.columns == tensor.size() && fits(matrix.row_logs, matrix.rows) &&
           fits(matrix.column_logs, matrix.columns);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    metaq::FileHeader header;
    if (metaq::HeaderReader(std::span(bytes, size)).read(header) != metaq::FileStatus::ok) return 0;
    if (!header.base.empty() && header.base.size() != metaq::kChecksumBytes) std::abort();
    for (const metaq::FileTensor& tensor : header.tensors) {
        const bool is_target = tensor.target < header.tensors.size() && tensor.size() < metaq::kElementsLimit;
        const bool has_codebook = !tensor.has_symbols() || tensor.codebook < header.codebooks.size();
        if (!is_target || !has_codebook || !has_good_matrix(tensor)) std::abort();
    }
    return 0;
}
