// Coders and header text: checks what comes in, releases the GIL while native code works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "metaq/adaptive/coder.hpp"
#include "metaq/base/counting.hpp"
#include "metaq/difference/coder.hpp"
#include "metaq/format/chunk.hpp"
#include "metaq/format/header.hpp"
#include "metaq/format/plane_splitting.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/coder.hpp"
#include "metaq/text/coder.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

using Bytes = std::vector<std::uint8_t>;
using Encode = metaq::Status (*)(std::span<const metaq::ConstBlock>, Bytes&);
using Decode = metaq::Status (*)(std::span<const std::uint8_t>, std::span<const metaq::Block>);

void check_status(metaq::Status status) {
    if (status == metaq::Status::truncated) throw std::invalid_argument("truncated");
    if (status == metaq::Status::corrupt) throw std::invalid_argument("corrupt");
    if (status == metaq::Status::no_memory) throw std::bad_alloc();
}

nb::bytes to_python(const Bytes& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

template <Encode encode>
nb::bytes encode_blocks(const std::vector<SymbolArray>& arrays) {
    std::vector<metaq::ConstBlock> blocks;
    for (const SymbolArray& array : arrays) {
        check_symbols(array);
        blocks.push_back({array.data(), array.shape(0), array.shape(1), array.shape(2)});
    }
    Bytes out;
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = encode(blocks, out);
    }
    check_status(status);
    return to_python(out);
}

// As encode_blocks of rANS, of byte planes.
nb::bytes rans_encode_bytes(const std::vector<ByteSymbolArray>& arrays) {
    std::vector<metaq::BasicBlock<const std::int8_t>> blocks;
    for (const ByteSymbolArray& array : arrays) {
        blocks.push_back({array.data(), array.shape(0), array.shape(1), array.shape(2)});
    }
    Bytes out;
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = metaq::rans::encode_any<std::int8_t>(blocks, out);
    }
    check_status(status);
    return to_python(out);
}

// A byte plane of elements of as many bytes as the last dimension has.
void split_plane(const nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& octets,
                 bool is_float, unsigned plane, const Vector<std::int8_t>& out) {
    const std::size_t width = octets.shape(1);
    if (!std::has_single_bit(width) || width > metaq::planes::kPlaneLimit || plane >= width)
        throw std::invalid_argument("elements of 1, 2, 4 or 8 bytes, or the plane, are not such");
    check_size("symbols of the plane", octets.shape(0), out.size());
    nb::gil_scoped_release release;
    metaq::planes::split(octets.data(), width, out.size(), is_float, plane, out.data());
}

// How often each number of 8 or 16 bits occurs.
template <class Number>
void count_numbers(const Vector<const Number>& numbers, const Vector<std::uint64_t>& counts) {
    constexpr std::size_t kNumbers = std::size_t{1} << (8 * sizeof(Number));
    check_size("counts", kNumbers, counts.size());
    if (numbers.size() > UINT32_MAX) throw std::invalid_argument("more numbers than can be counted");
    nb::gil_scoped_release release;
    metaq::Counter counter(kNumbers);
    counter.add(numbers.size(), [data = numbers.data()](std::size_t i) { return data[i]; });
    for (std::size_t i = 0; i < kNumbers; ++i) counts.data()[i] = counter.count(i);
}

template <Decode decode>
void decode_blocks(const ByteArray& data, const std::vector<FilledArray>& arrays) {
    std::vector<metaq::Block> blocks;
    for (const FilledArray& array : arrays) blocks.push_back(block_of(array));
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = decode(view(data), blocks);
    }
    check_status(status);
}

template <Encode encode, Decode decode>
void bind_coder(nb::module_& module, const char* encode_name, const char* decode_name) {
    // Without conversion: it would truncate other types to int32, silently, and fill copies.
    module.def(encode_name, checked(&encode_blocks<encode>), nb::arg("blocks").noconvert());
    module.def(decode_name, checked(&decode_blocks<decode>), nb::arg("data"), nb::arg("blocks").noconvert());
}

using ValueArray = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LevelArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codebook = std::tuple<float, std::optional<LevelArray>, std::int32_t>;

metaq::rans::Form form_of(nb::dlpack::dtype dtype) {
    using metaq::rans::Form;
    if (dtype == nb::dtype<std::int32_t>()) return Form::int32;
    if (dtype == nb::dtype<std::int8_t>()) return Form::int8;
    if (dtype == nb::dtype<float>()) return Form::float32;
    if (dtype == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1})
        return Form::float16;
    if (dtype == nb::dtype<std::uint16_t>()) return Form::bfloat16;
    throw std::invalid_argument("an output is not int32, int8, float32, float16 or uint16 (the bits of bfloat16)");
}

metaq::rans::ValueBlock value_block(const ValueArray& output, const Shape& shape, const Codebook& codebook) {
    const auto [rows, channels, kernel] = shape;
    std::size_t left = output.size();
    for (const std::int64_t side : {rows, channels, kernel}) {
        if (side < 0) throw std::invalid_argument("a side of a shape is negative");
        left = side == 0 ? 0 : left / static_cast<std::size_t>(side);
    }
    metaq::rans::ValueBlock block{
        static_cast<std::uint8_t*>(output.data()), static_cast<std::size_t>(rows), static_cast<std::size_t>(channels),
        static_cast<std::size_t>(kernel),          form_of(output.dtype()),        {}};
    // The quotient first, so that the product does not overflow.
    if ((output.size() > 0 && left != 1) || block.size() != output.size()) {
        throw std::invalid_argument("an output has not as many elements as its shape");
    }
    const auto& [step, levels, origin] = codebook;
    block.codebook = {step, {}, origin};
    if (levels) block.codebook.levels = {levels->data(), levels->size()};
    if (levels && levels->size() == 0) throw std::invalid_argument("a codebook has no levels");
    return block;
}

// Files are decoded by `File`. This is the kernel alone, which benchmarks time and whose portable path tests compare.
//
// Fills the outputs. A uniform codebook is (step, None, 0), a table (any number, levels, origin).
void rans_decode_values(const ByteArray& data, const std::vector<Shape>& shapes, const std::vector<ValueArray>& outputs,
                        const std::vector<Codebook>& codebooks, bool portable) {
    if (shapes.size() != outputs.size() || shapes.size() != codebooks.size()) {
        throw std::invalid_argument("shapes, outputs and codebooks differ in number");
    }
    std::vector<metaq::rans::ValueBlock> blocks;
    for (std::size_t i = 0; i < shapes.size(); ++i) blocks.push_back(value_block(outputs[i], shapes[i], codebooks[i]));
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        const auto path = portable ? metaq::rans::Path::portable : metaq::rans::Path::best;
        status = metaq::rans::decode_values(view(data), blocks, path);
    }
    check_status(status);
}

// What makes elements of another network of those of a base, as a chunk's payload; and how many differ.
std::tuple<nb::bytes, std::uint64_t> difference_encode(const ByteArray& base, const ByteArray& other, unsigned dtype) {
    const auto known = static_cast<Dtype>(dtype);
    if (dtype > UINT8_MAX || traits_of(known).name == nullptr || known == Dtype::boolean)
        throw std::invalid_argument("a dtype that no changed tensor has");
    check_size("bytes of the other network", base.size(), other.size());
    if (base.size() % traits_of(known).bytes != 0 || base.size() / traits_of(known).bytes > difference::kElementsLimit)
        throw std::invalid_argument("not whole elements, or more than a chunk has");
    Bytes out;
    std::uint64_t changed = 0;
    {
        nb::gil_scoped_release release;
        changed = difference::encode(word_traits_of(known), view(base), view(other), out);
    }
    return {to_python(out), changed};
}

nb::bytes encode_text(const ByteArray& bytes) {
    Bytes out;
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = metaq::text::encode(view(bytes), out);
    }
    check_status(status);
    return to_python(out);
}

nb::bytes decode_text(const ByteArray& data, std::size_t size) {
    const std::uint64_t most = kHeaderBytesPerByte * (data.size() + 8);
    if (size > most)
        throw std::invalid_argument("size: expected at most " + std::to_string(most) + ", found " +
                                    std::to_string(size));
    Bytes bytes(size);
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = metaq::text::decode(view(data), bytes);
    }
    check_status(status);
    return to_python(bytes);
}

}  // namespace

void bind_coders(nb::module_& module) {
    bind_coder<huffman::encode, huffman::decode>(module, "huffman_encode", "huffman_decode");
    bind_coder<range::encode, range::decode>(module, "range_encode", "range_decode");
    bind_coder<rans::encode, rans::decode>(module, "rans_encode", "rans_decode");
    module.def("rans_encode_bytes", checked(&rans_encode_bytes), nb::arg("blocks").noconvert());
    module.def("split_plane", checked(&split_plane), nb::arg("octets"), nb::arg("is_float"), nb::arg("plane"),
               nb::arg("out").noconvert());
    module.def("count_numbers", checked(&count_numbers<std::uint8_t>), nb::arg("numbers").noconvert(),
               nb::arg("counts").noconvert());
    module.def("count_numbers", checked(&count_numbers<std::uint16_t>), nb::arg("numbers").noconvert(),
               nb::arg("counts").noconvert());
    // Without conversion: it would fill a copy.
    module.def("rans_decode_values", checked(&rans_decode_values), nb::arg("data"), nb::arg("shapes"),
               nb::arg("outputs").noconvert(), nb::arg("codebooks").noconvert(), nb::arg("portable") = false);
    bind_coder<mixing::encode, mixing::decode>(module, "mixing_encode", "mixing_decode");
    bind_coder<adaptive::encode, adaptive::decode>(module, "adaptive_encode", "adaptive_decode");
    module.def("difference_encode", checked(&difference_encode), nb::arg("base"), nb::arg("other"), nb::arg("dtype"));
    module.def("text_encode", checked(&encode_text), nb::arg("bytes"));
    module.def("text_decode", checked(&decode_text), nb::arg("data"), nb::arg("size"));
}

}  // namespace metaq::python
