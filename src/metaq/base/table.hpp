// Tables of constants, made by functions:
//
//     METAQ_MAKES_TABLE std::array<int, 9> make_squares() { ... }
//     inline METAQ_TABLE auto kSquares = make_squares();
//
// A compiler makes them, or the program when it starts if METAQ_TABLES_AT_START is defined, which makes it smaller.
#pragma once

#ifdef METAQ_TABLES_AT_START
#define METAQ_TABLE const
#define METAQ_MAKES_TABLE inline
#else
#define METAQ_TABLE constexpr
#define METAQ_MAKES_TABLE constexpr
#endif
