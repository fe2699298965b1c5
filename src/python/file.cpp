// Whole files for the Python module metaq._native: the decoder of decoder.hpp, on threads.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "metaq/decoder.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

using Sizes = std::vector<std::uint64_t>;
using Entry = std::tuple<std::string, unsigned, Sizes, Sizes, std::size_t>;  // name, dtype, shape, strides, target

// Work on every number below a count: this thread and others take the next that is left.
struct InThreads {
    std::size_t threads;

    template <class Work>
    void operator()(std::size_t count, const Work& work) const {
        std::atomic<std::size_t> next = 0;
        const auto take_all = [&] {
            for (std::size_t i = next++; i < count; i = next++) work(i);
        };
        std::vector<std::jthread> others;
        for (std::size_t i = 1; i < std::min(threads, count); ++i) others.emplace_back(take_all);
        take_all();
    }
};

// A file, and the bytes that it looks at.
class WholeFile {
public:
    explicit WholeFile(const ByteArray& data) : data_(data) {
        nb::gil_scoped_release release;
        is_open_ = file_.open({data_.data(), data_.size()}) == metaq::FileStatus::ok;
    }

    bool is_open() const { return is_open_; }

    // Of all tensors' elements.
    std::uint64_t size_bytes() const {
        std::uint64_t sum = 0;
        for (const metaq::FileTensor& tensor : file_.tensors()) sum += tensor.kind == metaq::TensorKind::alias ? 0 : tensor.size_bytes();
        return sum;
    }

    std::vector<Entry> tensors() const {
        std::vector<Entry> entries;
        for (const metaq::FileTensor& tensor : file_.tensors()) {
            Sizes strides(tensor.shape.size(), 1);
            for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<std::uint64_t>(1, tensor.shape[i]);
            entries.emplace_back(tensor.name, static_cast<unsigned>(tensor.dtype), tensor.shape, std::move(strides), tensor.target);
        }
        return entries;
    }

    // `addresses` are of memory for each tensor's elements, of which there is none for aliases.
    bool decode(const std::vector<std::uintptr_t>& addresses, std::size_t threads) const {
        nb::gil_scoped_release release;
        std::vector<metaq::File::Output> outputs;
        for (std::size_t i = 0; i < file_.tensors().size(); ++i) {
            const metaq::FileTensor& tensor = file_.tensors()[i];
            if (tensor.kind == metaq::TensorKind::alias) continue;
            auto* bytes = reinterpret_cast<std::uint8_t*>(addresses.at(i));
            outputs.push_back({i, {bytes, static_cast<std::size_t>(tensor.size_bytes())}});
        }
        return file_.decode(outputs, InThreads{threads}) == metaq::FileStatus::ok;
    }

private:
    ByteArray data_;
    metaq::File file_;
    bool is_open_ = false;
};

}  // namespace

void bind_file(nb::module_& module) {
    nb::class_<WholeFile>(module, "WholeFile")
        .def(nb::init<const ByteArray&>(), nb::arg("data"))
        .def_prop_ro("is_open", &WholeFile::is_open)
        .def_prop_ro("size_bytes", &WholeFile::size_bytes)
        .def("tensors", &WholeFile::tensors)
        .def("decode", &WholeFile::decode, nb::arg("addresses"), nb::arg("threads"));
}

}  // namespace metaq::python
