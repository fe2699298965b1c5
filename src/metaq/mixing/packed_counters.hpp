// Counters by a number, for those few numbers of many that are asked for, in five bytes each.
//
// The two rates of a counter are the same until it has learned from kYoungest bits or so, and most of a small network's counters
// never learn from more: they are packed as one probability with a short count. Others are whole, and what is packed says where.
// A counter is unpacked while it is in use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/base/logistic.hpp"
#include "metaq/mixing/model.hpp"
#include "metaq/mixing/stable_list.hpp"

namespace metaq::mixing {

// Keys are below kKeys. At most `kInUse` counters are in use.
template <std::uint32_t kKeys, std::size_t kInUse>
class PackedCounters {
public:
    // The counter that there is, or that `make()` gives, which then is there. Null if there is no memory. It is in use, and may be
    // changed, until `pack` is called.
    template <class Make>
    logistic::Counter* get(std::uint32_t key, const Make& make) {
        for (std::size_t i = 0; i < used_count_; ++i) {
            if (used_[i].key == key) return &used_[i].counter;
        }
        const std::uint32_t hash = hashed(key);
        Place place;
        if (!find(hash, place) && !add(hash, make(), place)) return nullptr;
        used_[used_count_] = {key, place, unpacked(place)};
        return &used_[used_count_++].counter;
    }

    // Returns false if there is no memory for some counter's changes.
    [[nodiscard]] bool pack() {
        bool has_memory = true;
        for (std::size_t i = 0; i < used_count_; ++i) has_memory &= pack(used_[i].counter, node_at(used_[i].place));
        used_count_ = 0;
        return has_memory;
    }

private:
    static constexpr unsigned kProbabilityBits = 22, kCountBits = 5;
    static constexpr unsigned kHighTagBits = 32 - kProbabilityBits - kCountBits, kLowTagBits = 8;
    static constexpr unsigned kTagBits = kHighTagBits + kLowTagBits;
    static constexpr std::size_t kBuckets = (kKeys >> kTagBits) + 1;
    static constexpr std::size_t kNodes = 6;              // of a group
    static constexpr unsigned kWhole = 31, kNobody = 30;  // in the place of a count
    static constexpr std::uint32_t kMostYoung = 23;
    static_assert(kMostYoung <= kRates.fast_limit + 1 && kMostYoung < kNobody);
    static constexpr std::uint32_t kFactor = 4999;  // of hashes, a prime
    static_assert(kKeys % kFactor != 0 && kKeys < UINT32_MAX / kFactor && kKeys < 1u << kProbabilityBits);

    struct Node {
        std::uint32_t probability : kProbabilityBits;  // of a whole counter its number
        std::uint32_t count : kCountBits;
        std::uint32_t high_tag : kHighTagBits;
    };
    static_assert(sizeof(Node) == 4);

    // Some of the nodes of a bucket.
    struct Group {
        std::array<Node, kNodes> nodes;
        std::array<std::uint8_t, kNodes> low_tags;
        std::uint16_t next;  // number of the bucket's next group; 0: none
    };

    struct Place {
        std::uint16_t group;
        std::uint16_t node;
    };

    struct Used {
        std::uint32_t key;
        Place place;
        logistic::Counter counter;
    };

    // One to one.
    static std::uint32_t hashed(std::uint32_t key) { return key * kFactor % kKeys; }
    static std::uint32_t low_tag(std::uint32_t hash) { return hash & ((1u << kLowTagBits) - 1); }
    static std::uint32_t high_tag(std::uint32_t hash) { return hash >> kLowTagBits & ((1u << kHighTagBits) - 1); }

    Group& group_at(std::uint16_t number) { return groups_[number - std::size_t{1}]; }
    Node& node_at(const Place& place) { return group_at(place.group).nodes[place.node]; }

    bool find(std::uint32_t hash, Place& place) {
        for (std::uint16_t number = first_[hash >> kTagBits]; number != 0; number = group_at(number).next) {
            const Group& group = group_at(number);
            for (std::uint16_t i = 0; i < kNodes; ++i) {
                const Node& node = group.nodes[i];
                place = {number, i};
                if (group.low_tags[i] == low_tag(hash) && node.high_tag == high_tag(hash) && node.count != kNobody)
                    return true;
            }
        }
        return false;
    }

    // Takes the first free node of the bucket's first group; all others are full.
    [[nodiscard]] bool add(std::uint32_t hash, const logistic::Counter& counter, Place& place) {
        std::uint16_t& first = first_[hash >> kTagBits];
        if (first == 0 || group_at(first).nodes.back().count != kNobody) {
            Group group{{}, {}, first};
            for (Node& node : group.nodes) node.count = kNobody;
            if (groups_.size() == UINT16_MAX || !groups_.append(group)) return false;
            first = static_cast<std::uint16_t>(groups_.size());
        }
        place = {first, 0};
        while (node_at(place).count != kNobody) ++place.node;
        Node& node = node_at(place);
        node.high_tag = high_tag(hash);
        group_at(first).low_tags[place.node] = static_cast<std::uint8_t>(low_tag(hash));
        return pack(counter, node);
    }

    logistic::Counter unpacked(const Place& place) {
        const Node& node = node_at(place);
        if (node.count == kWhole) return whole_[node.probability];
        const std::uint32_t probability = node.probability << 10;
        return {probability | node.count, probability};
    }

    [[nodiscard]] bool pack(const logistic::Counter& counter, Node& node) {
        const std::uint32_t count = counter.slow & logistic::kCountMask;
        if (node.count == kWhole) {
            whole_[node.probability] = counter;
        } else if (count <= kMostYoung) {
            node.probability = counter.slow >> 10;
            node.count = count;
        } else {
            if (!whole_.append(counter)) return false;
            node.probability = static_cast<std::uint32_t>(whole_.size() - 1);
            node.count = kWhole;
        }
        return true;
    }

    std::array<std::uint16_t, kBuckets> first_{};  // number of the first group, from 1 on
    StableList<Group, 16> groups_;
    StableList<logistic::Counter, 32> whole_;
    std::array<Used, kInUse> used_{};
    std::size_t used_count_ = 0;
};

}  // namespace metaq::mixing
