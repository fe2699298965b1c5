// Fuzz target: whole files. Anything may be refused; nothing may crash, and what is decoded is decoded alike in any way.
//
// The bytes are tried as they are, and once more with checksums that match, so that what lies behind them is reached.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "metaq/decoder.hpp"

namespace {

constexpr std::size_t kTensorsAlone = 4;        // decoded each by itself, and in halves
constexpr std::uint64_t kBytesLimit = 1 << 22;  // files that decode to more take too long to be worth it

void check(bool holds) {
    if (!holds) std::abort();
}

// A tensor's bytes, each half of its elements decoded by itself.
std::vector<std::uint8_t> in_halves(const metaq::File& file, metaq::FileSession& session, std::size_t index) {
    const metaq::FileTensor& tensor = file.tensors()[index];
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(tensor.size_bytes()));
    const std::uint64_t half = tensor.size() / 2;
    const std::span second =
        std::span(bytes).subspan(static_cast<std::size_t>(half * metaq::traits_of(tensor.dtype).bytes));
    const metaq::File::Output halves[] = {{index, second, half, tensor.size() - half},
                                          {index, std::span(bytes).first(bytes.size() - second.size()), 0, half}};
    for (const metaq::File::Output& output : halves) {
        check(session.decode(std::span(&output, 1), {}, metaq::in_order) == metaq::FileStatus::ok);
    }
    return bytes;
}

// Elements that change come out alike, to other memory and in place of the base's, whether or not the stream is good.
void apply(const metaq::File& file) {
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
        const metaq::FileChange* const change = file.tensors()[i].change;
        if (change == nullptr) continue;
        const std::uint64_t size = change->common * metaq::traits_of(file.tensors()[i].dtype).bytes;
        if (size > kBytesLimit) continue;
        std::vector<std::uint8_t> base(static_cast<std::size_t>(size)), out(base.size());
        for (std::size_t at = 0; at < base.size(); ++at) base[at] = static_cast<std::uint8_t>(at * at >> 3);
        const bool is_good = file.apply(i, base, out) == metaq::FileStatus::ok;
        check(is_good == (file.apply(i, base, base) == metaq::FileStatus::ok));
        check(!is_good || base == out);
        check(file.apply(i, base, std::span(out).first(out.size() - 1)) == metaq::FileStatus::wrong_base);
    }
}

class Memory final : public metaq::ByteSource {
public:
    explicit Memory(std::span<const std::uint8_t> data) : data_(data) {}

    bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        check(offset <= data_.size() && out.size() <= data_.size() - offset);
        std::copy_n(data_.data() + offset, out.size(), out.data());
        return true;
    }

private:
    std::span<const std::uint8_t> data_;
};

// A file that is read as it is decoded is what it is in memory, and says the same of what is wrong.
void read_late(std::span<const std::uint8_t> data, const metaq::FileError& expected) {
    Memory source(data);
    metaq::File file, late;
    const metaq::FileError found = late.open_late(source, data.size());
    check(found.status == expected.status && found.chunk == expected.chunk && found.tensor == expected.tensor);
    check(found.header_byte == expected.header_byte && found.name == expected.name && found.what == expected.what);
    check(found.expected.least == expected.expected.least && found.found.least == expected.found.least);
    if (found != metaq::FileStatus::ok || file.open(data) != metaq::FileStatus::ok) return;
    for (std::size_t i = 0; i < std::min(file.tensors().size(), kTensorsAlone); ++i) {
        if (file.tensors()[i].size_bytes() > kBytesLimit) continue;
        std::vector<std::uint8_t> in_memory(static_cast<std::size_t>(file.tensors()[i].size_bytes()));
        std::vector<std::uint8_t> read(in_memory.size());
        const metaq::FileStatus status = file.decode(i, in_memory).status;
        check(late.decode(i, read) == status && (status != metaq::FileStatus::ok || read == in_memory));
    }
}

void decode(std::span<const std::uint8_t> data) {
    metaq::File file;
    const metaq::FileError opened = file.open(data);
    const metaq::FileStatus status = opened.status;
    read_late(data, opened);
    const bool is_difference = status == metaq::FileStatus::difference;
    check(status == metaq::FileStatus::ok ? file.base().empty() : file.tensors().empty());
    if (is_difference) {
        check(file.open(data, {}, metaq::Differences::taken) == metaq::FileStatus::ok);
        check(file.base().size() == metaq::kChecksumBytes);
        apply(file);
    } else if (status != metaq::FileStatus::ok) {
        return;
    }
    std::uint64_t bytes = 0;
    for (const metaq::FileTensor& tensor : file.tensors()) bytes += std::min(tensor.size_bytes(), kBytesLimit);
    if (bytes > kBytesLimit) return;

    std::vector<std::vector<std::uint8_t>> whole;
    std::vector<metaq::File::Output> outputs;
    for (const metaq::FileTensor& tensor : file.tensors()) {
        whole.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
        outputs.push_back({whole.size() - 1, whole.back()});
    }
    const bool is_good = file.decode(outputs) == metaq::FileStatus::ok;
    metaq::FileSession session(file, 1 << 16);
    for (std::size_t i = 0; i < std::min(whole.size(), kTensorsAlone); ++i) {
        std::vector<std::uint8_t> one(whole[i].size());
        const bool is_one_good = file.decode(i, one) == metaq::FileStatus::ok;
        check(!is_good || (is_one_good && one == whole[i]));
        check(!is_good || in_halves(file, session, i) == whole[i]);
    }

    std::vector<std::uint8_t> one_more(whole.empty() ? 1 : whole[0].size() + 1);
    check(file.decode(whole.size(), one_more) == metaq::FileStatus::bad_index);
    if (!whole.empty()) check(file.decode(0, one_more) == metaq::FileStatus::wrong_output_size);
}

void write_crc(std::vector<std::uint8_t>& data, std::size_t first, std::size_t end) {
    metaq::write_little_endian(data.data() + end, metaq::crc32(std::span(data).subspan(first, end - first)));
}

// Overwrites the checksums where they belong. False if the file is too broken to tell.
bool seal(std::vector<std::uint8_t>& data) {
    if (data.size() < 6) return false;
    metaq::FieldReader fields(data, metaq::FileStatus::truncated);
    fields.take(4);
    const std::uint64_t size = fields.varint();
    const auto coded = fields.take(fields.varint());
    const std::size_t end = fields.offset();
    fields.take(4);
    // The text coder takes its time; headers of real files are short.
    if (!fields.is_ok() || size == 0 || size > 4096) return false;
    write_crc(data, 0, end);
    std::vector<std::uint8_t> header_bytes(static_cast<std::size_t>(size));
    metaq::FileHeader header;
    if (metaq::text::decode(coded, header_bytes) != metaq::Status::ok) return true;
    if (metaq::HeaderReader(header_bytes).read(header) != metaq::FileStatus::ok) return true;
    for (const metaq::FileChunk& chunk : header.chunks) {
        const std::size_t first = fields.offset();
        fields.take(chunk.payload_bytes);
        const std::size_t last = fields.offset();
        fields.take(4);
        if (!fields.is_ok()) return true;
        write_crc(data, first, last);
    }
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    const std::span data(bytes, size);
    decode(data);
    std::vector<std::uint8_t> sealed(data.begin(), data.end());
    if (seal(sealed)) decode(sealed);
    return 0;
}
