// Strings through the text coder.
#include "metaq/text/coder.hpp"

#include <string>
#include <vector>

#include "check.hpp"

using Bytes = std::vector<std::uint8_t>;

static std::vector<Bytes> strings() {
    check::Random random(7);
    const std::string names = "layer1.0.conv1.weight layer1.0.conv2.weight layer2.0.conv1.weight";
    Bytes noise(700);
    for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random.next());
    return {{}, {0}, {255}, Bytes(1000, 0), Bytes(names.begin(), names.end()), noise};
}

static Bytes encoded(const Bytes& bytes) {
    Bytes out;
    CHECK(metaq::text::encode(bytes, out) == metaq::Status::ok);
    return out;
}

// Decodes by the best arithmetic and by the portable one, which agree on anything, damaged data too.
static metaq::Status decoded(const Bytes& data, Bytes& result) {
    Bytes portable = result;
    const metaq::Status status = metaq::text::decode(data, result);
    CHECK(metaq::text::decode_with<metaq::text::Portable>(data, portable) == status);
    CHECK(portable == result);
    return status;
}

TEST(text_round_trips) {
    for (const Bytes& bytes : strings()) {
        Bytes data = encoded(bytes);
        Bytes result(bytes.size(), 0x55);
        CHECK(decoded(data, result) == metaq::Status::ok);
        CHECK(result == bytes);
        data.push_back(0);
        CHECK(decoded(data, result) != metaq::Status::ok);
    }
}

// Either status is right, even for a stream cut short: only that nothing is read or written out of bounds.
TEST(text_survives_damage) {
    check::Random random(8);
    for (const Bytes& bytes : strings()) {
        const Bytes data = encoded(bytes);
        Bytes result(bytes.size());
        for (int repeat = 0; repeat < 5 && !data.empty(); ++repeat) {
            Bytes damaged = data;
            damaged[random.below(damaged.size())] ^= static_cast<std::uint8_t>(1u << random.below(8));
            (void)decoded(damaged, result);
            const Bytes cut(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(random.below(data.size())));
            (void)decoded(cut, result);
        }
    }
}
