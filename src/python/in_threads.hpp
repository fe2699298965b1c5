// Work that several threads share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace metaq::python {

// Work on every number below a count: this thread and others take the next that is left.
struct InThreads {
    std::size_t threads;

    template <class Work>
    void operator()(std::size_t count, const Work& work) const {
        std::atomic<std::size_t> next = 0;
        const auto take_all = [&] {
            for (std::size_t i = next++; i < count; i = next++) work(i);
        };
        std::vector<std::jthread> others;
        try {
            for (std::size_t i = 1; i < std::min(threads, count); ++i) others.emplace_back(take_all);
        } catch (const std::exception&) {  // there are as many as the system gives
        }
        take_all();
    }
};

}  // namespace metaq::python
