// The loops of loops.hpp with vectors, as a module of their own: its stack and its data lie between those of the decoder, and what
// it allocates comes from the decoder's allocator. Without vectors, these loops as part of the decoder, which build.py compiles for
// speed and all else for size.
#include "loops.hpp"

#include "metaq/base/memory.hpp"

namespace metaq {

#ifdef __wasm_simd128__

METAQ_EXPORT(use_allocator)(const Allocator* allocator)->void { current_allocator = allocator; }

METAQ_EXPORT(decode_steps)
(rans::Lanes& lanes, const std::uint32_t* slots, std::uint8_t* entries, std::size_t steps)->std::size_t {
    return kDecodeSteps(lanes, slots, entries, steps);
}

METAQ_EXPORT(decode_free_band)
(adaptive::State& state, adaptive::Decoder& coder, const Block& rows, const adaptive::FreeSymbols& symbols)->Status {
    return kDecodeBand<adaptive::FreeSymbols>(state, coder, rows, symbols);
}

METAQ_EXPORT(decode_dependent_band)
(adaptive::State& state, adaptive::Decoder& coder, const Block& rows, const adaptive::DependentSymbols& symbols)
    ->Status {
    return kDecodeBand<adaptive::DependentSymbols>(state, coder, rows, symbols);
}

METAQ_EXPORT(decode_free_row)
(mixing::State& state, BinaryDecoder& coder, const Block& block, std::size_t row, std::int32_t* first,
 std::int32_t centre, mixing::FreeSymbols& symbols)
    ->Status {
    return kDecodeRow<mixing::FreeSymbols>(state, coder, block, row, first, centre, symbols);
}

METAQ_EXPORT(decode_dependent_row)
(mixing::State& state, BinaryDecoder& coder, const Block& block, std::size_t row, std::int32_t* first,
 std::int32_t centre, mixing::DependentSymbols& symbols)
    ->Status {
    return kDecodeRow<mixing::DependentSymbols>(state, coder, block, row, first, centre, symbols);
}

#else

template Status adaptive::code_band(adaptive::State&, adaptive::Decoder&, const Block&, const adaptive::FreeSymbols&);
template Status adaptive::code_band(adaptive::State&, adaptive::Decoder&, const Block&,
                                    const adaptive::DependentSymbols&);
template Status mixing::code_row(mixing::State&, BinaryDecoder&, const Block&, std::size_t, std::int32_t*, std::int32_t,
                                 mixing::FreeSymbols&);
template Status mixing::code_row(mixing::State&, BinaryDecoder&, const Block&, std::size_t, std::int32_t*, std::int32_t,
                                 mixing::DependentSymbols&);

#endif

}  // namespace metaq
