// Compiled without exceptions and run-time types, as the decoding side of every coder has to be. Nothing runs.
#include <array>

#include "metaq/adaptive/coder.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/text/coder.hpp"

using Decode = metaq::Status (*)(std::span<const std::uint8_t>, std::span<const metaq::Block>);

extern const std::array<Decode, 5> kDecoders;
const std::array<Decode, 5> kDecoders{&metaq::adaptive::decode, &metaq::huffman::decode, &metaq::mixing::decode,
                                      &metaq::range::decode, &metaq::rans::decode};
extern metaq::Status (*const kDecodeText)(std::span<const std::uint8_t>, std::span<std::uint8_t>);
metaq::Status (*const kDecodeText)(std::span<const std::uint8_t>, std::span<std::uint8_t>) = &metaq::text::decode;
