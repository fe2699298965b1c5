// first_values MODEL.mtq: each tensor's name, dtype, shape and, of float32, its first values.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "metaq/decoder.hpp"

int main(int count, char** arguments) {
    std::ifstream in(count == 2 ? arguments[1] : "", std::ios::binary);
    const std::vector<char> content{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    const std::vector<std::uint8_t> bytes(content.begin(), content.end());

    metaq::File file;  // looks into the bytes, which therefore outlive it
    metaq::FileStatus status = file.open(bytes);
    for (std::size_t i = 0; status == metaq::FileStatus::ok && i < file.tensors().size(); ++i) {
        const metaq::FileTensor& tensor = file.tensors()[i];
        std::vector<std::uint8_t> elements(tensor.size_bytes());
        status = file.decode(i, elements);
        if (status != metaq::FileStatus::ok) break;

        std::cout << tensor.name << ' ' << metaq::traits_of(tensor.dtype).name << " (";
        for (const std::uint64_t length : tensor.shape) std::cout << length << ',';
        std::cout << ')';
        std::vector<float> values(tensor.dtype == metaq::Dtype::float32 ? elements.size() / sizeof(float) : 0);
        std::memcpy(values.data(), elements.data(), values.size() * sizeof(float));
        for (std::size_t k = 0; k < std::min<std::size_t>(values.size(), 3); ++k) std::cout << ' ' << values[k];
        std::cout << '\n';
    }
    if (status != metaq::FileStatus::ok) std::cerr << "first_values: " << metaq::describe(status) << '\n';
    return status == metaq::FileStatus::ok ? 0 : 2;
}
