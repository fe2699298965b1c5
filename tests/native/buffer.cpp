// Growing arrays that fail without an exception.
#include "metaq/base/buffer.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "check.hpp"

using metaq::Buffer;

TEST(buffer_grows_and_keeps_its_elements) {
    Buffer<std::int32_t> numbers;
    CHECK(numbers.empty() && numbers.capacity() == 0);
    for (std::int32_t i = 0; i < 1000; ++i) CHECK(numbers.append(i));
    CHECK(numbers.size() == 1000 && numbers.capacity() < 2001);
    for (std::int32_t i = 0; i < 1000; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == i);
    CHECK(numbers.front() == 0 && numbers.back() == 999);

    const std::int32_t more[] = {7, 8};
    CHECK(numbers.append_all(more));
    CHECK(numbers.size() == 1002 && numbers.back() == 8);
    const std::span<const std::int32_t> view = std::as_const(numbers);
    CHECK(view.size() == 1002 && view.data() == numbers.data());
}

TEST(buffer_resizes) {
    Buffer<std::int32_t> numbers;
    CHECK(numbers.resize(3));
    CHECK(numbers[0] == 0 && numbers[1] == 0 && numbers[2] == 0);
    numbers[0] = 5;
    CHECK(numbers.resize_for_overwrite(100));
    CHECK(numbers.size() == 100 && numbers[0] == 5);
    CHECK(numbers.resize(1));
    CHECK(numbers.resize(3));
    CHECK(numbers[0] == 5 && numbers[1] == 0 && numbers[2] == 0);
    numbers.clear();
    CHECK(numbers.empty() && numbers.capacity() >= 100);
}

// What no machine has stays a failure, also where the product of count and size overflows.
TEST(buffer_refuses_what_there_is_no_memory_for) {
    Buffer<std::uint64_t> numbers;
    CHECK(numbers.append(4));
    for (const std::size_t size : {SIZE_MAX, SIZE_MAX / 8 + 1, SIZE_MAX / 16, SIZE_MAX / 2 + 2}) {
        CHECK(!numbers.resize(size));
        CHECK(!numbers.resize_for_overwrite(size));
        CHECK(!numbers.reserve(size));
        CHECK(numbers.size() == 1 && numbers[0] == 4);
    }
}

// The sanitizers see elements that are destroyed twice or never.
TEST(buffer_owns_elements_that_own_something) {
    Buffer<Buffer<std::unique_ptr<int>>> rows;
    for (int row = 0; row < 20; ++row) {
        Buffer<std::unique_ptr<int>> numbers;
        for (int i = 0; i <= row; ++i) CHECK(numbers.append(std::make_unique<int>(i)));
        CHECK(rows.append(std::move(numbers)));
        CHECK(numbers.empty() && numbers.data() == nullptr);
    }
    for (int row = 0; row < 20; ++row) CHECK(*rows[static_cast<std::size_t>(row)].back() == row);
    Buffer<Buffer<std::unique_ptr<int>>> other = std::move(rows);
    CHECK(other.resize(5) && other.size() == 5);
    other = {};
    CHECK(other.empty());
}

TEST(buffer_keeps_alignment) {
    struct alignas(64) Line {
        std::uint8_t bytes[64];
    };
    Buffer<Line> lines;
    for (int i = 0; i < 20; ++i) CHECK(lines.append(Line{}));
    CHECK(reinterpret_cast<std::uintptr_t>(lines.data()) % 64 == 0);
}
