// Fuzz target: what small devices decode, images and files, in an arena of a fixed size: every element is there once.
//
// The bytes are tried as they are, and as an image with checksums that match.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "metaq/device.hpp"

namespace {

constexpr std::size_t kArenaBytes = 1 << 20;

void check(bool holds) {
    if (!holds) std::abort();
}

void write_crc(std::span<std::uint8_t> data, std::size_t first, std::size_t end) {
    metaq::write_little_endian(data.data() + end, metaq::crc32(data.subspan(first, end - first)));
}

// Elements of tensors lie in them, and there are never more than they have.
void decode(std::span<const std::uint8_t> data) {
    static std::vector<std::byte> memory(kArenaBytes);
    metaq::device::Decoder decoder(memory);
    if (decoder.open(data) != metaq::FileStatus::ok) return;
    const auto tensors = decoder.tensors();
    std::vector<std::uint64_t> counts(tensors.size());
    const metaq::FileError error = decoder.decode([&](const metaq::device::Elements& elements) {
        check(elements.tensor < tensors.size());
        const metaq::FileTensor& tensor = tensors[elements.tensor];
        check(elements.bytes.size() == elements.count * metaq::traits_of(tensor.dtype).bytes);
        if (elements.count > 0)
            check(elements.first + elements.stride * (elements.count - 1) < std::max<std::uint64_t>(tensor.size(), 1));
        counts[elements.tensor] += elements.count;
        check(counts[elements.tensor] <= tensor.size());
        return true;
    });
    check(decoder.most_bytes() <= kArenaBytes);
    if (error != metaq::FileStatus::ok) return;
    for (std::size_t i = 0; i < tensors.size(); ++i)
        check(tensors[i].kind == metaq::TensorKind::alias || counts[i] == tensors[i].size());
}

// Overwrites the checksums of an image where they belong, as far as it can be told where.
void seal(std::span<std::uint8_t> data) {
    using metaq::device::kImageBegin;
    if (!metaq::device::is_image(data) || data.size() < kImageBegin + 4) return;
    const std::size_t size = metaq::read_word(data.subspan(metaq::device::kImageMagic.size(), 4));
    if (size > data.size() - kImageBegin - 4) return;
    write_crc(data, 0, kImageBegin + size);
    metaq::FileHeader header;
    if (metaq::HeaderReader(data.subspan(kImageBegin, size)).read(header) != metaq::FileStatus::ok) return;
    std::size_t first = kImageBegin + size + 4;
    for (const metaq::FileChunk& chunk : header.chunks) {
        if (chunk.payload_bytes > data.size() - first || data.size() - first - chunk.payload_bytes < 4) return;
        const std::size_t end = first + static_cast<std::size_t>(chunk.payload_bytes);
        write_crc(data, first, end);
        first = end + 4;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    decode({bytes, size});
    std::vector<std::uint8_t> sealed(bytes, bytes + size);
    seal(sealed);
    decode(sealed);
    return 0;
}
