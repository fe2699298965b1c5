// Training kernels: quantized values in place of the weights that an optimizer trains, and those again with their gradients.
//
// Both make one pass over a parameter. A symbol is the nearest multiple of the step within the radius, ties to even.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metaq::quantized_view {

struct Parameter {
    float* weights;   // the network's, quantized or latent ones
    float* latent;    // what the optimizer trains, while the weights are quantized
    float* gradient;  // of the loss with respect to the quantized weights
    std::size_t size;
    float step;
};

// w / step, clipped to the radius; NaN becomes the radius, so that its symbol is an index like any other.
inline float clipped(float scaled, float radius) {
    const float from_above = scaled <= radius ? scaled : radius;
    return from_above >= -radius ? from_above : -radius;
}

// Adding and taking away 1.5 * 2^23 rounds to nearest even, without a call, and never gives a negative zero.
inline float nearest(float clipped) {
    constexpr float kShift = 12582912.0f;
    return (clipped + kShift) - kShift;
}

// latent <- weights, weights <- their quantized values; counts (2 * radius + 1 of them, or none) get every symbol added.
inline void write_quantized(const Parameter& parameter, int radius, std::int64_t* counts) {
    const float limit = static_cast<float>(radius);
    for (std::size_t i = 0; i < parameter.size; ++i) {
        const float weight = parameter.weights[i];
        parameter.latent[i] = weight;
        parameter.weights[i] = nearest(clipped(weight / parameter.step, limit)) * parameter.step;
    }
    if (counts == nullptr) return;
    for (std::size_t i = 0; i < parameter.size; ++i) {
        ++counts[static_cast<int>(nearest(clipped(parameter.latent[i] / parameter.step, limit))) + radius];
    }
}

// weights <- latent, gradient += strength * slope. Slopes: for every level, that below it and that above it.
inline void restore_latent(const Parameter& parameter, int radius, const float* slopes, float strength) {
    const float limit = static_cast<float>(radius);
    for (std::size_t i = 0; i < parameter.size; ++i) {
        const float scaled = parameter.latent[i] / parameter.step;
        const float symbol = nearest(clipped(scaled, limit));
        const bool is_above = scaled > symbol;
        const float slope = slopes[2 * (static_cast<int>(symbol) + radius) + is_above];
        // Outside the levels the weight is clipped, and the regulariser is flat. A product, since no
        // processor predicts a branch on that.
        const bool is_inside = (scaled >= -limit) & (scaled <= limit);
        parameter.gradient[i] += strength * (slope * static_cast<float>(is_inside));
        parameter.weights[i] = parameter.latent[i];
    }
}

}  // namespace metaq::quantized_view
