// Ranges of a matrix's elements, cut into whole lines and parts of lines.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace metaq {

// Of elements, of lines, or of places in a line: [first, end).
struct Range {
    std::uint64_t first, end;

    std::size_t size() const { return static_cast<std::size_t>(end - first); }
    bool is_empty() const { return first >= end; }
};

inline Range intersection(Range a, Range b) { return {std::max(a.first, b.first), std::min(a.end, b.end)}; }

// Calls visit(lines, places) so that the elements at these places of these lines are those of a range that is not empty: at
// most once for lines that are whole, and once for the part of a line on either side.
template <class Visit>
void visit_lines(Range elements, std::uint64_t length, const Visit& visit) {
    const Range touched{elements.first / length, (elements.end - 1) / length + 1};
    const Range whole{(elements.first + length - 1) / length, elements.end / length};
    const auto visit_part = [&](std::uint64_t line) {
        const Range part = intersection(elements, {line * length, (line + 1) * length});
        visit(Range{line, line + 1}, Range{part.first - line * length, part.end - line * length});
    };
    if (touched.first < whole.first) visit_part(touched.first);
    if (whole.first < whole.end) visit(whole, Range{0, length});
    if (whole.first <= whole.end && whole.end < touched.end) visit_part(whole.end);
}

}  // namespace metaq
