// The forward pass of a sequential network whose weights are decoded while it runs: each weight is multiplied by what it meets and
// forgotten, so that no layer's weights are ever in memory. Nothing is allocated.
//
//     static float memory[MODEL_FLOATS];
//     metaq::device::Decoder decoder(arena);
//     metaq::FileError error = decoder.open(model);
//     metaq::device::Network network(model_layers, memory);
//     if (error == metaq::FileStatus::ok) error = network.run(decoder, input, output);
//
// `metaq pack --c` writes the layers, and a function that does all of this. Values are float32 in the order of channels, rows and
// columns.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "metaq/device.hpp"

namespace metaq::device {

// A linear layer is a convolution by kernels as large as its input.
enum class LayerKind : std::uint8_t { convolution, max_pool, average_pool };

struct Volume {
    std::uint32_t channels, height, width;

    constexpr std::size_t size() const { return std::size_t{channels} * height * width; }
};

// Kernels and where they are put. What lies in the padding is zero, and less than all for the largest of a pool.
struct Window {
    std::uint32_t height, width;
    std::uint32_t row_stride, column_stride;
    std::uint32_t row_padding, column_padding;
};

inline constexpr std::uint32_t kNoTensor = UINT32_MAX;

struct Layer {
    LayerKind kind;
    bool is_rectified;  // negative results become zero
    Volume in, out;
    Window window;
    std::uint32_t weight = kNoTensor, bias = kNoTensor;  // their indices in the file; a weight is coded
    bool is_bias_kept = false;                           // without loss, instead of being coded

    constexpr std::size_t weights() const {
        return kind == LayerKind::convolution ? std::size_t{in.channels} * window.height * window.width * out.channels
                                              : 0;
    }
};

// How many floats a network takes: a layer's results and, unless they are the caller's, its input; and biases that are kept.
constexpr std::size_t count_floats(std::span<const Layer> layers) {
    std::size_t most = 0, kept = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const std::size_t in = i > 0 ? layers[i].in.size() : 0;
        const std::size_t out = i + 1 < layers.size() ? layers[i].out.size() : 0;
        most = std::max(most, in + out);
        if (layers[i].is_bias_kept) kept += layers[i].out.channels;
    }
    return most + kept;
}

class Network {
public:
    // The layers and the memory, which has room for `count_floats(layers)`, are the caller's and outlive the network.
    Network(std::span<const Layer> layers, std::span<float> memory) : layers_(layers), memory_(memory) {}

    // Decodes what the decoder has opened. Tensors that are not of the layers' sizes, or not float32, end with bad_index, an input
    // or an output of another size with wrong_output_size, too little memory with no_memory.
    FileError run(Decoder& decoder, std::span<const float> input, std::span<float> output) {
        FileError error;
        error.status = check(decoder, input, output);
        if (error.status != FileStatus::ok) return error;
        error = decoder.decode([&](const Elements& elements) { return keep(elements); }, Wanted::kept);
        if (error.status != FileStatus::ok) return error;
        output_ = output;
        in_ = input;
        start_layer(0);
        error = decoder.decode([&](const Elements& elements) { return take(elements); }, Wanted::coded);
        if (error.status == FileStatus::ok && layer_ < layers_.size()) error.status = FileStatus::bad_index;
        return error;
    }

private:
    FileStatus check(const Decoder& decoder, std::span<const float> input, std::span<const float> output) const {
        if (layers_.empty() || layers_.front().in.size() != input.size() || layers_.back().out.size() != output.size())
            return FileStatus::wrong_output_size;
        if (memory_.size() < count_floats(layers_)) return FileStatus::no_memory;
        const auto fits = [&](std::uint32_t index, std::size_t size) {
            if (index == kNoTensor) return true;
            if (index >= decoder.tensors().size()) return false;
            const FileTensor& tensor = decoder.tensors()[index];
            return tensor.dtype == Dtype::float32 && tensor.size() == size;
        };
        for (const Layer& layer : layers_) {
            if (!fits(layer.weight, layer.weights()) || !fits(layer.bias, layer.out.channels))
                return FileStatus::bad_index;
        }
        return FileStatus::ok;
    }

    static float value_at(const Elements& elements, std::size_t i) {
        return std::bit_cast<float>(read_word(elements.bytes.subspan(4 * i, 4)));
    }

    // Kept biases lie at the end of the memory, in the order of their layers.
    std::size_t count_kept(std::size_t layers) const {
        std::size_t count = 0;
        for (const Layer& layer : layers_.first(layers)) count += layer.is_bias_kept ? layer.out.channels : 0;
        return count;
    }
    std::span<float> kept_bias(std::size_t layer) const {
        return memory_.last(count_kept(layers_.size())).subspan(count_kept(layer), layers_[layer].out.channels);
    }

    bool keep(const Elements& elements) {
        for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
            if (!layers_[layer].is_bias_kept || layers_[layer].bias != elements.tensor) continue;
            const std::span<float> place = kept_bias(layer);
            for (std::size_t i = 0; i < place.size(); ++i) place[i] = value_at(elements, i);
        }
        return true;
    }

    // Layers' results lie at one end of the memory and then at the other, those of the last where the caller wants them.
    void start_layer(std::size_t layer) {
        layer_ = layer;
        for (; layer_ < layers_.size(); ++layer_) {
            const Layer& now = layers_[layer_];
            const std::size_t size = now.out.size();
            const auto values = memory_.first(memory_.size() - count_kept(layers_.size()));
            out_ = layer_ + 1 == layers_.size() ? output_ : layer_ % 2 == 0 ? values.first(size) : values.last(size);
            if (now.kind == LayerKind::convolution) break;
            pool(now);
            finish_layer();
        }
        if (layer_ == layers_.size()) return;
        std::fill(out_.begin(), out_.end(), 0.0f);
        const Layer& now = layers_[layer_];
        left_ = now.weights() + (now.bias == kNoTensor || now.is_bias_kept ? 0 : now.out.channels);
    }

    void finish_layer() {
        if (layers_[layer_].is_rectified) {
            for (float& value : out_) value = std::max(value, 0.0f);
        }
        in_ = out_;
    }

    // Some elements of the layer's weight, or its bias. The last ones end it.
    bool take(const Elements& elements) {
        if (layer_ == layers_.size()) return true;
        const Layer& layer = layers_[layer_];
        if (elements.tensor != layer.weight && elements.tensor != layer.bias) return true;
        for (std::size_t i = 0; i < elements.count; ++i) {
            const auto at = static_cast<std::size_t>(elements.first + i * elements.stride);
            const float value = value_at(elements, i);
            if (value == 0) continue;
            elements.tensor == layer.weight ? add_weight(layer, at, value) : add_bias(layer, at, value);
        }
        left_ -= elements.count;
        if (left_ > 0) return true;
        if (layer.is_bias_kept) add_kept_bias(layer);
        finish_layer();
        start_layer(layer_ + 1);
        return true;
    }

    void add_bias(const Layer& layer, std::size_t channel, float value) {
        const std::size_t area = std::size_t{layer.out.height} * layer.out.width;
        for (float& result : out_.subspan(channel * area, area)) result += value;
    }

    void add_kept_bias(const Layer& layer) {
        const std::span<const float> values = kept_bias(layer_);
        for (std::size_t channel = 0; channel < values.size(); ++channel) add_bias(layer, channel, values[channel]);
    }

    // Adds a weight times all inputs that it meets to the results.
    void add_weight(const Layer& layer, std::size_t at, float value) {
        const std::size_t area = std::size_t{layer.window.height} * layer.window.width;
        const std::size_t place = at % area, channel = at / area % layer.in.channels;
        float* const results = &out_[at / area / layer.in.channels * layer.out.height * layer.out.width];
        for_each_input(layer, channel, place / layer.window.width, place % layer.window.width,
                       [&](std::size_t result, float input) { results[result] += value * input; });
    }

    // Calls visit(result, input) for the results of a channel to which an input at a place of the window belongs.
    template <class Visit>
    void for_each_input(const Layer& layer, std::size_t channel, std::size_t row, std::size_t column,
                        const Visit& visit) const {
        const Window& window = layer.window;
        const float* const inputs = &in_[channel * layer.in.height * layer.in.width];
        for (std::size_t y = 0; y < layer.out.height; ++y) {
            const std::size_t in_y = y * window.row_stride + row - window.row_padding;  // above all if it is outside
            if (in_y >= layer.in.height) continue;
            for (std::size_t x = 0; x < layer.out.width; ++x) {
                const std::size_t in_x = x * window.column_stride + column - window.column_padding;
                if (in_x < layer.in.width) visit(y * layer.out.width + x, inputs[in_y * layer.in.width + in_x]);
            }
        }
    }

    void pool(const Layer& layer) {
        const bool is_largest = layer.kind == LayerKind::max_pool;
        const Window& window = layer.window;
        const std::size_t area = std::size_t{layer.out.height} * layer.out.width;
        std::fill(out_.begin(), out_.end(), is_largest ? -std::numeric_limits<float>::infinity() : 0.0f);
        for (std::size_t channel = 0; channel < layer.in.channels; ++channel) {
            float* const results = &out_[channel * area];
            for (std::size_t i = 0; i < std::size_t{window.height} * window.width; ++i) {
                for_each_input(layer, channel, i / window.width, i % window.width,
                               [&](std::size_t result, float input) {
                    results[result] = is_largest ? std::max(results[result], input) : results[result] + input;
                });
            }
        }
        if (is_largest) return;
        const auto size = static_cast<float>(window.height * window.width);
        for (float& result : out_) result /= size;
    }

    std::span<const Layer> layers_;
    std::span<float> memory_, output_, out_;
    std::span<const float> in_;
    std::size_t layer_ = 0;  // all before it are done
    std::size_t left_ = 0;   // its elements that are to come
};

}  // namespace metaq::device
