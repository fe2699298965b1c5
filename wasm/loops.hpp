// The inner loops of decoding that vectors make faster. loops.cpp compiles them with vectors, as a module that works in the memory
// of the decoder's, which calls them by way of its table. Both lay out structs alike, since they have one source.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metaq/adaptive/band.hpp"
#include "metaq/base/binary_coder.hpp"
#include "metaq/base/replaceable.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/rans/kernels.hpp"

#define METAQ_EXPORT(name) extern "C" __attribute__((export_name(#name))) auto name

namespace metaq {

inline constexpr auto kDecodeSteps = &rans::decode_wasm;
template <class Symbols>
inline constexpr auto kDecodeBand = &adaptive::code_band<adaptive::Decoder, std::int32_t, Symbols>;
template <class Symbols>
inline constexpr auto kDecodeRow = &mixing::code_row<mixing::State, BinaryDecoder, std::int32_t, Symbols>;

}  // namespace metaq
