// Training kernels of HEMP: the histogram of tuples of weights between levels, and the gradient of its entropy.
//
// Every weight lies in a cell between two levels, with a share of the upper one; a tuple of Order weights touches the
// 2^Order corners of the cells' product. The formulas are those of metaq/solvers/tuple_entropy.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace metaq::hemp {

// One layer. Its levels are increasing, with the last repeated where there is but one; `inverse_spacings` are 0 there.
// What is done for every weight has no branches: they would depend on the weights, and be mispredicted half of the time.
struct Layer {
    const float* weights;
    float* gradient;  // of the loss, to which the regulariser's is added
    std::size_t size;
    const float* levels;
    const float* inverse_spacings;
    int level_count;
    std::int32_t* cells;  // filled by `locate`: the position of the level below each weight
    float* shares;        // and that of the level above, 0 to 1
};

struct Weighting {
    float entropy;           // factor of the derivative with respect to a weight
    float error;             // factor of w - r(q)
    bool is_printed;         // (17) as printed: corners without their probabilities
    bool has_insensitivity;  // (27)
};

constexpr int kMostOrder = 4;
constexpr int kMostCompared = 32;  // levels; more are searched by halving
constexpr std::size_t kBlock = 256;

// How many of the inner levels are at or below each of `count` weights.
inline void find_cells(const Layer& layer, std::size_t first, std::size_t count) {
    std::int32_t* const cells = layer.cells + first;
    const float* const weights = layer.weights + first;
    std::fill(cells, cells + count, 0);
    if (layer.level_count <= kMostCompared) {
        for (int k = 1; k + 1 < layer.level_count; ++k) {
            const float level = layer.levels[k];
            for (std::size_t i = 0; i < count; ++i) cells[i] += weights[i] >= level;
        }
        return;
    }
    const float* const inner = layer.levels + 1;
    for (std::size_t i = 0; i < count; ++i) {
        const float* begin = inner;
        auto remaining = static_cast<std::size_t>(layer.level_count - 2);
        while (remaining > 1) {
            const std::size_t half = remaining / 2;
            begin += static_cast<std::size_t>(begin[half - 1] <= weights[i]) * half;
            remaining -= half;
        }
        cells[i] = static_cast<std::int32_t>(begin - inner) + static_cast<std::int32_t>(*begin <= weights[i]);
    }
}

// Cells and shares of a layer's weights; returns the sum of (w - r(q))² with q the nearest level.
inline double locate(const Layer& layer) {
    double squares = 0.0;
    for (std::size_t first = 0; first < layer.size; first += kBlock) {
        const std::size_t count = std::min(kBlock, layer.size - first);
        find_cells(layer, first, count);
        float partial = 0.0f;
        for (std::size_t i = first; i < first + count; ++i) {
            const float* const level = layer.levels + layer.cells[i];
            const float below = layer.weights[i] - level[0];
            const float above = layer.weights[i] - level[1];
            layer.shares[i] = std::min(1.0f, std::max(0.0f, below * layer.inverse_spacings[layer.cells[i]]));
            partial += std::min(below * below, above * above);
        }
        squares += static_cast<double>(partial);
    }
    return squares;
}

// The number of the first corner of the tuple that begins at weight `first`.
template <int Order>
inline std::size_t first_cell(const Layer& layer, std::size_t first, std::size_t base) {
    std::size_t cell = 0;
    for (int m = 0; m < Order; ++m) cell = cell * base + static_cast<std::size_t>(layer.cells[first + m]);
    return cell;
}

// How far each of the 2^Order corners is from the first one; a corner's highest bit is the first weight's side.
template <int Order>
struct Corners {
    static constexpr int kCount = 1 << Order;
    std::size_t offset[kCount];

    explicit Corners(std::size_t base) {
        for (int corner = 0; corner < kCount; ++corner) {
            offset[corner] = 0;
            for (int m = 0; m < Order; ++m) offset[corner] = offset[corner] * base + ((corner >> (Order - 1 - m)) & 1);
        }
    }
};

template <int Order>
inline void count_tuples(const Layer& layer, std::size_t base, double* histogram) {
    const Corners<Order> corners(base);
    for (std::size_t first = 0; first + Order <= layer.size; first += Order) {
        float probability[Corners<Order>::kCount];
        probability[0] = 1.0f;
        for (int m = 0; m < Order; ++m) {
            const float share = layer.shares[first + m];
            for (int corner = (1 << m) - 1; corner >= 0; --corner) {
                const float both = probability[corner];
                probability[2 * corner + 1] = both * share;
                probability[2 * corner] = both * (1.0f - share);
            }
        }
        double* const cell = histogram + first_cell<Order>(layer, first, base);
        for (int corner = 0; corner < Corners<Order>::kCount; ++corner) {
            cell[corners.offset[corner]] += static_cast<double>(probability[corner]);
        }
    }
}

// Derivative, with respect to the share of weight m, of the interpolation of -log2 P between a tuple's corners.
template <int Order>
inline float slope(const float* logs, const float* shares, int m, bool is_printed) {
    float value[Corners<Order>::kCount];
    std::copy(logs, logs + Corners<Order>::kCount, value);
    int count = Corners<Order>::kCount;
    for (int axis = 0; axis < Order; ++axis) {
        count /= 2;
        const float above = shares[axis];
        for (int corner = 0; corner < count; ++corner) {
            const float low = value[corner];
            const float high = value[corner + count];
            value[corner] = axis == m ? low - high : is_printed ? low + high : low + above * (high - low);
        }
    }
    return value[0];
}

inline float greatest_magnitude(const float* values, std::size_t size) {
    float greatest = 0.0f;
    for (std::size_t i = 0; i < size; ++i) greatest = std::max(greatest, std::fabs(values[i]));
    return greatest;
}

// gradient += insensitivity * (entropy term + error term). `logs` are log2 P.
template <int Order>
inline void add_gradient(const Layer& layer, std::size_t base, const float* logs, const Weighting& weighting) {
    const Corners<Order> corners(base);
    const float greatest = weighting.has_insensitivity ? greatest_magnitude(layer.gradient, layer.size) : 0.0f;
    const float per_magnitude = greatest > 0.0f ? 1.0f / greatest : 0.0f;
    const float least = layer.levels[0];
    const float most = layer.levels[layer.level_count - 1];
    const auto add = [&](std::size_t i, float slope) {
        const float weight = layer.weights[i];
        const float* const level = layer.levels + layer.cells[i];
        const auto is_inside = static_cast<float>((weight >= least) & (weight <= most));
        const auto is_above = static_cast<float>(layer.shares[i] > 0.5f);
        const float entropy = is_inside * slope * layer.inverse_spacings[layer.cells[i]];
        const float error = weight - (level[0] + is_above * (level[1] - level[0]));
        const float insensitivity = 1.0f - std::fabs(layer.gradient[i]) * per_magnitude;
        layer.gradient[i] += insensitivity * (weighting.entropy * entropy + weighting.error * error);
    };
    std::size_t first = 0;
    for (; first + Order <= layer.size; first += Order) {
        const float* const cell = logs + first_cell<Order>(layer, first, base);
        float values[Corners<Order>::kCount];
        for (int corner = 0; corner < Corners<Order>::kCount; ++corner) values[corner] = cell[corners.offset[corner]];
        float slopes[Order];
        for (int m = 0; m < Order; ++m) {
            slopes[m] = slope<Order>(values, layer.shares + first, m, weighting.is_printed);
        }
        for (int m = 0; m < Order; ++m) add(first + static_cast<std::size_t>(m), slopes[m]);
    }
    for (; first < layer.size; ++first) add(first, 0.0f);
}

}  // namespace metaq::hemp
