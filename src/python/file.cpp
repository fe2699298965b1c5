// Whole files for the Python module metaq._native: the decoder of decoder.hpp, on threads.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "metaq/decoder.hpp"
#include "metaq/packing.hpp"
#include "python/arrays.hpp"
#include "python/in_threads.hpp"
#include "python/sources.hpp"
#include "python/streams.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

using Sizes = std::vector<std::uint64_t>;
using Shape = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;
using Elements = nb::ndarray<nb::c_contig, nb::device::cpu>;  // of any dtype: their bytes are filled
using DecodedBlock = nb::ndarray<const std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Request = std::tuple<std::size_t, std::uint64_t, std::uint64_t, Elements>;  // tensor, first element, their number
using TensorRow = std::tuple<std::string_view, unsigned, unsigned, nb::tuple, std::size_t, std::size_t>;
using CodebookRow = std::tuple<unsigned, float, std::int64_t, nb::bytes>;
using Logs = std::optional<nb::bytes>;  // of scales
using MatrixRow = std::tuple<std::size_t, std::tuple<std::uint64_t, Logs, Logs, bool>>;
using ChangeRow = std::tuple<std::size_t, std::tuple<nb::tuple, std::uint64_t, std::uint64_t, std::string_view>>;
using Octets = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ChunkRow = std::tuple<unsigned, std::size_t, std::uint64_t, std::uint64_t>;
using RunRow = std::tuple<std::size_t, std::optional<unsigned>, std::uint64_t, Shape>;

// Coders of the Python side: `decode(chunk, coder, payload, shapes)` returns the blocks. Its first exception is kept.
class PythonDecoder final : public ForeignDecoder {
public:
    explicit PythonDecoder(const nb::callable& decode) : decode_(decode) {}

    Status decode(std::size_t chunk, std::uint8_t coder, std::span<const std::uint8_t> payload,
                  std::span<const Block> blocks) noexcept override {
        nb::gil_scoped_acquire acquire;
        try {
            std::vector<Shape> shapes;
            for (const Block& block : blocks) shapes.emplace_back(block.rows, block.channels, block.kernel);
            const nb::object result = decode_(chunk, coder, nb::bytes(payload.data(), payload.size()), shapes);
            std::vector<DecodedBlock> arrays;
            if (!nb::try_cast(result, arrays, false))
                throw std::invalid_argument("a coder returned no list of arrays of int32 in three dimensions");
            if (arrays.size() != blocks.size())
                throw std::invalid_argument("a coder returned another number of blocks");
            for (std::size_t i = 0; i < blocks.size(); ++i) {
                if (arrays[i].size() != blocks[i].size())
                    throw std::invalid_argument("a coder returned a block of another size");
                if (arrays[i].size() > 0) std::memcpy(blocks[i].symbols, arrays[i].data(), arrays[i].nbytes());
            }
            return Status::ok;
        } catch (...) {
            if (!raised_) raised_ = std::current_exception();
            return Status::corrupt;
        }
    }

    // With the GIL.
    void raise_again() const {
        if (raised_) std::rethrow_exception(raised_);
    }

private:
    nb::callable decode_;
    std::exception_ptr raised_;
};

struct ErrorRecord {
    std::string status, words;
    std::optional<std::size_t> header_byte, chunk, tensor;
    nb::bytes name;
    std::string what;
    std::tuple<std::int64_t, std::int64_t> expected, found;
};

std::optional<ErrorRecord> to_python(const FileError& error) {
    if (error.status == FileStatus::ok) return std::nullopt;
    if (error.status == FileStatus::no_memory) throw std::bad_alloc();
    const auto place = [](std::size_t at) { return at == kNowhere ? std::nullopt : std::optional(at); };
    return ErrorRecord{name_of(error.status),
                       describe(error),
                       place(error.header_byte),
                       place(error.chunk),
                       place(error.tensor),
                       nb::bytes(error.name.data(), error.name.size()),
                       std::string(error.what),
                       {error.expected.least, error.expected.greatest},
                       {error.found.least, error.found.greatest}};
}

// A file, what it is read from, and a session of reading it. Any thread may call.
class PythonFile {
public:
    // Bytes in memory; of those that are not constant each chunk is copied before it is checked.
    PythonFile(const ByteArray& data, bool is_constant, const std::vector<std::uint8_t>& foreign_coders,
               std::size_t cache_bytes, bool takes_differences, std::uint64_t header_bytes, std::uint64_t decoded_bytes)
        : data_(data), session_(file_, cache_bytes) {
        if (!is_constant) source_ = &in_memory_.emplace(view(data_));
        open(data.size(), foreign_coders, takes_differences, {header_bytes, decoded_bytes});
    }
    // A file on disk, open for reading: so many bytes from `begin` on, since it may lie in another file.
    PythonFile(int descriptor, std::uint64_t begin, std::uint64_t size_bytes,
               const std::vector<std::uint8_t>& foreign_coders, std::size_t cache_bytes, bool takes_differences,
               std::uint64_t header_bytes, std::uint64_t decoded_bytes)
        : on_disk_(std::in_place, descriptor, begin), source_(&*on_disk_), session_(file_, cache_bytes) {
        open(size_bytes, foreign_coders, takes_differences, {header_bytes, decoded_bytes});
    }
    PythonFile(const PythonFile&) = delete;
    PythonFile& operator=(const PythonFile&) = delete;

    const std::optional<ErrorRecord>& error() const { return error_; }

    // Of a difference, its base's checksum.
    std::optional<nb::bytes> base() const {
        return file_.base().empty() ? std::nullopt : std::optional(nb::bytes(file_.base().data(), file_.base().size()));
    }

    std::vector<std::tuple<std::string_view, std::string_view>> metadata() const {
        std::vector<std::tuple<std::string_view, std::string_view>> rows;
        for (const MetadataEntry& entry : file_.metadata()) rows.emplace_back(entry.key, entry.value);
        return rows;
    }

    std::vector<TensorRow> tensors() const {
        std::vector<TensorRow> rows;
        rows.reserve(file_.tensors().size());
        for (const FileTensor& tensor : file_.tensors()) {
            const Sizes shape(tensor.shape.begin(), tensor.shape.end());
            rows.emplace_back(tensor.name, static_cast<unsigned>(tensor.dtype), static_cast<unsigned>(tensor.kind),
                              nb::tuple(nb::cast(shape)), tensor.codebook, tensor.target);
        }
        return rows;
    }

    std::vector<CodebookRow> codebooks() const {
        std::vector<CodebookRow> rows;
        for (const FileCodebook& codebook : file_.codebooks()) {
            const nb::bytes levels(reinterpret_cast<const char*>(codebook.levels.data()), codebook.levels.size_bytes());
            rows.emplace_back(static_cast<unsigned>(codebook.kind), codebook.step, codebook.origin, levels);
        }
        return rows;
    }

    // Of the scaled tensors: their position, the dimensions that make a row, scales, and whether columns are scanned.
    std::vector<MatrixRow> matrices() const {
        std::vector<MatrixRow> rows;
        const auto logs = [](std::span<const std::uint8_t> bytes) {
            return bytes.empty() ? Logs() : Logs(nb::bytes(bytes.data(), bytes.size()));
        };
        for (std::size_t i = 0; i < file_.tensors().size(); ++i) {
            const FileMatrix* const matrix = file_.tensors()[i].matrix;
            if (matrix == nullptr) continue;
            rows.emplace_back(
                i, std::tuple(matrix->leading, logs(matrix->row_logs), logs(matrix->column_logs), matrix->by_columns));
        }
        return rows;
    }

    // Of the changed tensors: their position, the result's shape, how many elements are in common with which tensor of the
    // base, and how many of them differ.
    std::vector<ChangeRow> changes() const {
        std::vector<ChangeRow> rows;
        for (std::size_t i = 0; i < file_.tensors().size(); ++i) {
            const FileChange* const change = file_.tensors()[i].change;
            if (change == nullptr || file_.tensors()[i].kind == TensorKind::alias) continue;
            const Sizes shape(change->shape.begin(), change->shape.end());
            rows.emplace_back(
                i, std::tuple(nb::tuple(nb::cast(shape)), change->common, change->differing, change->source));
        }
        return rows;
    }

    // Fills an array with what a chunk of changes makes of the base's elements.
    std::optional<ErrorRecord> apply_chunk(std::size_t chunk, const ByteArray& base, const Octets& out) {
        if (chunk >= file_.chunks().size()) throw std::out_of_range("no such chunk");
        FileError error;
        {
            nb::gil_scoped_release release;
            error = file_.apply_chunk(chunk, view(base), {out.data(), out.size()});
        }
        ++decoded_chunks_;
        return to_python(error);
    }

    std::vector<ChunkRow> chunks() const {
        std::vector<ChunkRow> rows;
        for (const PlacedChunk& chunk : file_.chunks()) {
            rows.emplace_back(chunk.coder, chunk.symbols, chunk.offset, chunk.payload_bytes);
        }
        return rows;
    }

    std::vector<RunRow> runs(std::size_t chunk) const {
        if (chunk >= file_.chunks().size()) throw std::out_of_range("no such chunk");
        std::vector<RunRow> rows;
        for (const Run& run : file_.runs_of(file_.chunks()[chunk])) {
            const auto plane = run.section == 0 ? std::nullopt : std::optional(run.section - 1u);
            rows.emplace_back(run.tensor, plane, run.first_row, Shape{run.rows, run.channels, run.kernel});
        }
        return rows;
    }

    std::size_t end_of_group(std::size_t first, std::size_t threads) const {
        return file_.end_of_group(first, threads);
    }

    // Fills the arrays. Keeps what else was decoded for the next call, if `is_session`.
    std::optional<ErrorRecord> decode(const std::vector<Request>& requests, bool as_symbols, bool is_session,
                                      std::size_t threads, const nb::callable& foreign) {
        std::vector<File::Output> outputs;
        outputs.reserve(requests.size());
        for (const auto& [index, first, count, array] : requests) {
            outputs.push_back({index, {static_cast<std::uint8_t*>(array.data()), array.nbytes()}, first, count});
        }
        PythonDecoder decoder(foreign);
        DecodeOptions options;
        options.content = as_symbols ? Content::symbols : Content::values;
        options.foreign = &decoder;
        options.decoded_chunks = &decoded_chunks_;
        options.round_bytes = std::max(options.round_bytes, threads << 23);
        if (as_symbols && is_session) throw std::invalid_argument("a session keeps values, not symbols");
        FileError error;
        {
            nb::gil_scoped_release release;
            if (is_session) {
                const std::lock_guard lock(mutex_);
                error = session_.decode(outputs, options, InThreads{threads});
            } else {
                error = file_.decode(outputs, options, InThreads{threads});
            }
        }
        decoder.raise_again();
        return to_python(error);
    }

    // Fills an array for each of the chunk's runs: int32 symbols of coded tensors, int8 ones of planes.
    std::optional<ErrorRecord> decode_chunk(std::size_t chunk, const std::vector<Elements>& arrays,
                                            const nb::callable& foreign) {
        if (chunk >= file_.chunks().size()) throw std::out_of_range("no such chunk");
        const std::span runs = file_.runs_of(file_.chunks()[chunk]);
        if (arrays.size() != runs.size()) throw std::invalid_argument("not an array for each run");
        std::vector<std::uint8_t*> places;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            const std::size_t width = runs[i].section == 0 ? sizeof(std::int32_t) : 1;
            if (arrays[i].nbytes() != width * runs[i].symbols())
                throw std::invalid_argument("an array of another size than its run");
            places.push_back(static_cast<std::uint8_t*>(arrays[i].data()));
        }
        PythonDecoder decoder(foreign);
        DecodeOptions options;
        options.foreign = &decoder;
        options.decoded_chunks = &decoded_chunks_;
        FileError error;
        {
            nb::gil_scoped_release release;
            error = file_.decode_chunk(chunk, places, options);
        }
        decoder.raise_again();
        return to_python(error);
    }

    // The file's image for small devices, and the bytes of arena that it takes; or what is wrong. The file is in memory.
    std::tuple<nb::bytes, std::size_t, std::optional<ErrorRecord>> pack() const {
        if (source_ != nullptr) throw std::invalid_argument("expected a file in memory to pack");
        std::vector<std::uint8_t> image;
        FileError error;
        device::Image parts;
        {
            nb::gil_scoped_release release;
            error = device::pack(file_, image);
            if (error.status == FileStatus::ok) error.status = device::read_image(image, parts);
        }
        return {nb::bytes(image.data(), image.size()), parts.arena_bytes, to_python(error)};
    }

    // All chunks as a GPU decodes them: the fields of each, and one behind the other their frequencies, the first slots of these,
    // the symbols that are listed, and where units end and their tables begin. The file is in memory.
    std::tuple<nb::bytes, nb::bytes, nb::bytes, nb::bytes, nb::bytes, nb::bytes> streams(std::size_t threads) const {
        if (source_ != nullptr) throw std::invalid_argument("expected a file in memory to open the streams of");
        std::vector<OpenedChunk> chunks(file_.chunks().size());
        {
            nb::gil_scoped_release release;
            InThreads{threads}(chunks.size(), [&](std::size_t i) { chunks[i] = open_chunk(file_, i); });
        }
        std::vector<StreamFields> fields;
        for (const OpenedChunk& chunk : chunks) fields.push_back(chunk.fields);
        const auto bytes_of = [](const auto& numbers) {
            return nb::bytes(numbers.data(), numbers.size() * sizeof(numbers[0]));
        };
        const auto joined = [&](auto OpenedChunk::* part) {
            std::remove_reference_t<decltype(chunks[0].*part)> all;
            for (const OpenedChunk& chunk : chunks) all.insert(all.end(), (chunk.*part).begin(), (chunk.*part).end());
            return bytes_of(all);
        };
        return {bytes_of(fields),
                joined(&OpenedChunk::frequencies),
                joined(&OpenedChunk::first_slots),
                joined(&OpenedChunk::listed),
                joined(&OpenedChunk::unit_ends),
                joined(&OpenedChunk::unit_tables)};
    }

    std::size_t decoded_chunks() const { return decoded_chunks_; }

private:
    void open(std::uint64_t size_bytes, const std::vector<std::uint8_t>& foreign_coders, bool takes_differences,
              const FileLimits& limits) {
        const Differences differences = takes_differences ? Differences::taken : Differences::refused;
        FileError error;
        {
            nb::gil_scoped_release release;
            error = source_ == nullptr ? file_.open(view(data_), foreign_coders, differences, limits)
                                       : file_.open_late(*source_, size_bytes, differences, limits, foreign_coders);
        }
        error_ = to_python(error);
    }

    ByteArray data_;  // of a file in memory
    std::optional<DescriptorSource> on_disk_;
    std::optional<MemorySource> in_memory_;
    ByteSource* source_ = nullptr;  // one of these, or none of memory that is constant
    File file_;
    FileSession session_;
    std::mutex mutex_;  // of the session
    std::atomic<std::size_t> decoded_chunks_ = 0;
    std::optional<ErrorRecord> error_;
};

}  // namespace

void bind_file(nb::module_& module) {
    nb::class_<ErrorRecord>(module, "FileError")
        .def_ro("status", &ErrorRecord::status)
        .def_ro("words", &ErrorRecord::words)
        .def_ro("header_byte", &ErrorRecord::header_byte)
        .def_ro("chunk", &ErrorRecord::chunk)
        .def_ro("tensor", &ErrorRecord::tensor)
        .def_ro("name", &ErrorRecord::name)
        .def_ro("what", &ErrorRecord::what)
        .def_ro("expected", &ErrorRecord::expected)
        .def_ro("found", &ErrorRecord::found);
    nb::class_<PythonFile>(module, "File")
        .def(nb::init<const ByteArray&, bool, const std::vector<std::uint8_t>&, std::size_t, bool, std::uint64_t,
                      std::uint64_t>(),
             nb::arg("data"), nb::arg("is_constant") = true, nb::arg("foreign_coders") = std::vector<std::uint8_t>(),
             nb::arg("cache_bytes") = std::size_t{1} << 26, nb::arg("takes_differences") = false,
             nb::arg("header_bytes") = kHeaderBytesLimit, nb::arg("decoded_bytes") = UINT64_MAX)
        .def(nb::init<int, std::uint64_t, std::uint64_t, const std::vector<std::uint8_t>&, std::size_t, bool,
                      std::uint64_t, std::uint64_t>(),
             nb::arg("descriptor"), nb::arg("begin"), nb::arg("size_bytes"),
             nb::arg("foreign_coders") = std::vector<std::uint8_t>(), nb::arg("cache_bytes") = std::size_t{1} << 26,
             nb::arg("takes_differences") = false, nb::arg("header_bytes") = kHeaderBytesLimit,
             nb::arg("decoded_bytes") = UINT64_MAX)
        .def_prop_ro("error", &PythonFile::error)
        .def_prop_ro("decoded_chunks", &PythonFile::decoded_chunks)
        .def("base", &PythonFile::base)
        .def("metadata", &PythonFile::metadata)
        .def("tensors", &PythonFile::tensors)
        .def("codebooks", &PythonFile::codebooks)
        .def("matrices", &PythonFile::matrices)
        .def("chunks", &PythonFile::chunks)
        .def("changes", &PythonFile::changes)
        // Without conversion: it would fill a copy.
        .def("apply_chunk", checked(&PythonFile::apply_chunk), nb::arg("chunk"), nb::arg("base").noconvert(),
             nb::arg("out").noconvert())
        .def("runs", &PythonFile::runs, nb::arg("chunk"))
        .def("pack", &PythonFile::pack)
        .def("streams", &PythonFile::streams, nb::arg("threads"))
        .def("end_of_group", &PythonFile::end_of_group, nb::arg("first"), nb::arg("threads"))
        // Without conversion: it would fill copies.
        .def("decode_chunk", checked(&PythonFile::decode_chunk), nb::arg("chunk"), nb::arg("arrays").noconvert(),
             nb::arg("foreign"))
        .def("decode", checked(&PythonFile::decode), nb::arg("requests").noconvert(), nb::arg("as_symbols"),
             nb::arg("is_session"), nb::arg("threads"), nb::arg("foreign"));
}

}  // namespace metaq::python
