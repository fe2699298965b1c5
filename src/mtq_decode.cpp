// mtq_decode FILE.mtq OUT_DIR: every tensor's elements as a file of raw little-endian bytes, and manifest.json, which
// says what is what. Compiles alone: g++ -std=c++20 -O2 -Isrc src/mtq_decode.cpp -o mtq_decode
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "metaq/decoder.hpp"

namespace {

namespace fs = std::filesystem;

constexpr int kFailure = 2;

int fail(const std::string& where, const std::string& what) {
    std::fprintf(stderr, "mtq_decode: %s: %s\n", where.c_str(), what.c_str());
    return kFailure;
}

std::optional<std::vector<std::uint8_t>> read_file(const fs::path& path) {
    std::error_code error;
    if (fs::is_directory(path, error)) return std::nullopt;
    std::ifstream in(path, std::ios::binary);
    if (!in) return std::nullopt;
    const std::string content{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (in.bad()) return std::nullopt;
    return std::vector<std::uint8_t>(content.begin(), content.end());
}

bool write_file(const fs::path& path, std::string_view content) {
    std::ofstream out(path, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.close();
    return !out.fail();
}

std::string json_string(std::string_view text) {
    std::string json = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') json += '\\';
        if (static_cast<unsigned char>(c) >= 0x20) {
            json += c;
            continue;
        }
        char escape[7];
        std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
        json += escape;
    }
    return json + '"';
}

std::string file_name(std::size_t index) { return std::to_string(index) + ".bin"; }

std::string manifest(const metaq::File& file) {
    std::string json = "{\n  \"metadata\": {";
    const char* separator = "\n    ";
    for (const auto& [key, value] : file.metadata()) {
        json += separator + json_string(key) + ": " + json_string(value);
        separator = ",\n    ";
    }
    json += std::string(file.metadata().empty() ? "" : "\n  ") + "},\n  \"tensors\": [";
    separator = "\n    ";
    for (const metaq::FileTensor& tensor : file.tensors()) {
        std::string shape;
        for (const std::uint64_t length : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(length);
        json += separator + ("{\"name\": " + json_string(tensor.name)) + ", \"dtype\": \"" +
                metaq::traits_of(tensor.dtype).name + "\", \"shape\": [" + shape + "], \"file\": \"" +
                file_name(tensor.target) + "\"}";
        separator = ",\n    ";
    }
    return json + (file.tensors().empty() ? "" : "\n  ") + "]\n}\n";
}

int decode(const std::string& input, const fs::path& folder) {
    const auto data = read_file(input);
    if (!data) return fail(input, "expected a readable file, found none");
    metaq::File file;
    metaq::FileError error = file.open(*data);
    if (error != metaq::FileStatus::ok) return fail(input, metaq::describe(error));

    std::vector<std::vector<std::uint8_t>> tensors(file.tensors().size());
    std::vector<metaq::File::Output> outputs;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (file.tensors()[i].kind == metaq::TensorKind::alias) continue;
        tensors[i].resize(static_cast<std::size_t>(file.tensors()[i].size_bytes()));
        outputs.push_back({i, tensors[i]});
    }
    error = file.decode(outputs);
    if (error != metaq::FileStatus::ok) return fail(input, metaq::describe(error));

    std::error_code no_folder;  // which writing to it tells
    fs::create_directories(folder, no_folder);
    for (const metaq::File::Output& output : outputs) {
        const fs::path path = folder / file_name(output.index);
        const std::string_view bytes(reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size());
        if (!write_file(path, bytes)) return fail(path.string(), "expected a writable place, found none");
    }
    const fs::path path = folder / "manifest.json";
    if (!write_file(path, manifest(file))) return fail(path.string(), "expected a writable place, found none");
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) {
        std::fputs("usage: mtq_decode FILE.mtq OUT_DIR\n", stderr);
        return kFailure;
    }
    try {
        return decode(arguments[1], arguments[2]);
    } catch (const std::exception&) {
        return fail(arguments[1], metaq::describe(metaq::FileStatus::no_memory));
    }
}
