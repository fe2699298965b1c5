// Fuzz target: what small devices decode, images and files, in arenas of two sizes: every element is there once,
// and is what it is where files are decoded at once.
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

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kSmallArena = 1 << 16, kLargeArena = 1 << 24;
constexpr std::uint64_t kBytesLimit = 1 << 20;

void check(bool holds) {
    if (!holds) std::abort();
}

void write_crc(std::span<std::uint8_t> data, std::size_t first, std::size_t end) {
    metaq::write_little_endian(data.data() + end, metaq::crc32(data.subspan(first, end - first)));
}

// What a file or an image decodes to at once, tensor by tensor; nothing for what is refused, or is more than is worth it.
std::vector<Bytes> decode_at_once(std::span<const std::uint8_t> data) {
    using metaq::FileStatus;
    metaq::File file;
    metaq::device::Image image;
    std::vector<Bytes> whole;
    if (!metaq::device::is_image(data)) {
        if (file.open(data) != FileStatus::ok) return whole;
    } else if (metaq::device::read_image(data, image) != FileStatus::ok ||
               file.open_parts(image.header, image.chunks) != FileStatus::ok) {
        return whole;
    }
    std::uint64_t bytes = 0;
    for (const metaq::FileTensor& tensor : file.tensors()) bytes += std::min(tensor.size_bytes(), kBytesLimit);
    if (bytes >= kBytesLimit) return whole;
    std::vector<metaq::File::Output> outputs;
    for (const metaq::FileTensor& tensor : file.tensors()) {
        whole.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
        outputs.push_back({whole.size() - 1, whole.back()});
    }
    if (file.decode(outputs) != FileStatus::ok) whole.clear();
    return whole;
}

// Elements of tensors lie in them, and there are never more than they have.
void decode(std::span<const std::uint8_t> data, std::size_t arena_bytes) {
    static std::vector<std::byte> memory(kLargeArena);
    const std::vector<Bytes> whole = decode_at_once(data);
    metaq::device::Decoder decoder(std::span<std::byte>(memory).first(arena_bytes));
    if (decoder.open(data) != metaq::FileStatus::ok) return;
    const auto tensors = decoder.tensors();
    std::vector<std::uint64_t> counts(tensors.size());
    const metaq::FileError error = decoder.decode([&](const metaq::device::Elements& elements) {
        check(elements.tensor < tensors.size());
        const metaq::FileTensor& tensor = tensors[elements.tensor];
        const std::size_t width = metaq::traits_of(tensor.dtype).bytes;
        check(elements.bytes.size() == elements.count * width);
        if (elements.count > 0)
            check(elements.first + elements.stride * (elements.count - 1) < std::max<std::uint64_t>(tensor.size(), 1));
        counts[elements.tensor] += elements.count;
        check(counts[elements.tensor] <= tensor.size());
        for (std::size_t i = 0; i < elements.count && !whole.empty(); ++i) {
            const auto at = static_cast<std::size_t>(elements.first + i * elements.stride);
            const auto found = elements.bytes.subspan(i * width, width);
            check(std::equal(found.begin(), found.end(), &whole[elements.tensor][at * width]));
        }
        return true;
    });
    check(decoder.most_bytes() <= arena_bytes);
    check(whole.empty() || error == metaq::FileStatus::ok || error == metaq::FileStatus::no_memory);
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
    decode({bytes, size}, kLargeArena);
    std::vector<std::uint8_t> sealed(bytes, bytes + size);
    seal(sealed);
    decode(sealed, kSmallArena);
    decode(sealed, kLargeArena);
    return 0;
}
