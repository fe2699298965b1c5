// Functions that others may take the place of when a program starts, if METAQ_REPLACEABLE is defined: in WebAssembly, what uses
// vectors has to be a module of its own, for engines without them refuse it (wasm/).
//
//     replaceable<&decode_band>(band);       // calls decode_band, or what is there instead
//     replaceable<&decode_band> = &faster;
#pragma once

namespace metaq {

#ifdef METAQ_REPLACEABLE
template <auto kFunction>
inline constinit auto replaceable = kFunction;
#else
template <auto kFunction>
inline constexpr auto replaceable = kFunction;
#endif

}  // namespace metaq
