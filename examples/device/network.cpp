// A network without a system: computes the outputs of the inputs in input.h, by the forward pass in model.h, which
// `metaq pack MODEL.mtq --c model.h` writes. docs/devices.md says how it is compiled.
//
//     static const float inputs[][MODEL_INPUTS] = {...};
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "model.h"

#include "input.h"

#ifdef METAQ_REPORT
#include <cstdio>

#include "stack.hpp"
#endif

namespace {

volatile std::size_t largest = 0;  // of the last outputs: what a real program would act upon

}  // namespace

int main() {
    for (const auto& input : inputs) {
#ifdef METAQ_REPORT
        fill_stack();
#endif
        std::array<float, MODEL_OUTPUTS> output;
        const metaq::FileError error = model_forward(input, output);
        if (error != metaq::FileStatus::ok) return static_cast<int>(error.status);
        largest = static_cast<std::size_t>(std::max_element(output.begin(), output.end()) - output.begin());
#ifdef METAQ_REPORT
        const std::size_t stack_bytes = used_stack();
        for (const float value : output)
            std::printf("%08lx ", static_cast<unsigned long>(std::bit_cast<std::uint32_t>(value)));
        std::printf("stack %lu\n", static_cast<unsigned long>(stack_bytes));
#endif
    }
    return 0;
}
