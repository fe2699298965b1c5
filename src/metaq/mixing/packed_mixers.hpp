// Mixers by a number, for those that are asked for, in a half of their bytes.
//
// What a mixer's weights have moved by mostly fits into 16 bits each. Others are whole, and what is packed says where. A mixer is
// unpacked while it is in use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/base/logistic.hpp"
#include "metaq/mixing/model.hpp"
#include "metaq/mixing/sparse_table.hpp"
#include "metaq/mixing/stable_list.hpp"

namespace metaq::mixing {

// Keys are below 2^10. At most `kInUse` mixers are in use.
template <std::size_t kInUse>
class PackedMixers {
public:
    using Mixer = logistic::Mixer<kInputs>;

    // Null if there is no memory. The mixer is in use, and may be changed, until `pack` is called.
    Mixer* get(std::uint32_t key) {
        for (std::size_t i = 0; i < used_count_; ++i) {
            if (used_[i].key == key) return &used_[i].mixer;
        }
        Moves* const moves = moves_.get(key, [] { return Moves{}; });
        if (moves == nullptr) return nullptr;
        Used& used = used_[used_count_++];
        used.key = key;
        used.moves = moves;
        unpack(*moves, used.mixer);
        return &used.mixer;
    }

    // Returns false if there is no memory for some mixer's changes.
    [[nodiscard]] bool pack() {
        bool has_memory = true;
        for (std::size_t i = 0; i < used_count_; ++i) has_memory &= pack(used_[i].mixer, *used_[i].moves);
        used_count_ = 0;
        return has_memory;
    }

private:
    using Moves =
        std::array<std::int16_t, kInputs>;  // from the first weight; if the first is kWhole, the second is a number
    static constexpr std::int16_t kWhole = INT16_MIN;

    struct Used {
        std::uint32_t key;
        Moves* moves;
        Mixer mixer;
    };

    void unpack(const Moves& moves, Mixer& mixer) {
        if (moves[0] == kWhole) {
            mixer = whole_[static_cast<std::uint16_t>(moves[1])];
            return;
        }
        for (std::size_t i = 0; i < kInputs; ++i) mixer.weight[i] = kFirstWeight + moves[i];
    }

    [[nodiscard]] bool pack(const Mixer& mixer, Moves& moves) {
        if (moves[0] == kWhole) {
            whole_[static_cast<std::uint16_t>(moves[1])] = mixer;
        } else if (are_short(mixer)) {
            for (std::size_t i = 0; i < kInputs; ++i)
                moves[i] = static_cast<std::int16_t>(mixer.weight[i] - kFirstWeight);
        } else {
            if (!whole_.append(mixer)) return false;
            moves = {kWhole, static_cast<std::int16_t>(whole_.size() - 1)};
        }
        return true;
    }

    static bool are_short(const Mixer& mixer) {
        for (const std::int32_t weight : mixer.weight) {
            const std::int32_t move = weight - kFirstWeight;
            if (move <= kWhole || move > INT16_MAX) return false;
        }
        return true;
    }

    SparseTable<Moves, 10, 5, 8> moves_;
    StableList<Mixer, 4> whole_;
    std::array<Used, kInUse> used_{};
    std::size_t used_count_ = 0;
};

}  // namespace metaq::mixing
