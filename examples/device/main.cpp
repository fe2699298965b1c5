// A program without a system: decodes the image in model.h, which `metaq pack MODEL.mtq --c model.h` writes, row by row.
// docs/devices.md says how it is compiled.
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/device.hpp"
#include "model.h"

#ifdef METAQ_REPORT
#include <cstdio>

#include "stack.hpp"
#endif

namespace {

alignas(16) std::byte memory[MODEL_ARENA_BYTES];
volatile std::uint32_t checksum = 0;  // of all rows together; a real program would multiply by them

metaq::FileError decode(metaq::device::Decoder& decoder) {
    const metaq::FileError error = decoder.open(model);
    if (error != metaq::FileStatus::ok) return error;
    return decoder.decode([](const metaq::device::Elements& elements) {
        checksum = checksum ^ metaq::crc32(elements.bytes);
        return true;
    });
}

}  // namespace

int main() {
#ifdef METAQ_REPORT
    fill_stack();
#endif
    metaq::device::Decoder decoder(memory);
    const metaq::FileError error = decode(decoder);
#ifdef METAQ_REPORT
    const std::size_t stack_bytes = used_stack();
    std::printf("%s arena %lu stack %lu\n", metaq::name_of(error.status),
                static_cast<unsigned long>(decoder.most_bytes()), static_cast<unsigned long>(stack_bytes));
#endif
    return static_cast<int>(error.status);
}
