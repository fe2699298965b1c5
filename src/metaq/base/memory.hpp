// Where decoding takes memory from: `operator new`, or a caller's allocator while an `AllocatorScope` lives.
//
//     const AllocatorScope scope(&allocator);
//     Owned<State> state = make_owned<State>();
//     if (state == nullptr) return Status::no_memory;
//
// A scope holds for its own thread. What was allocated remembers its allocator and goes back to that, in any scope and on any
// thread, so an allocator outlives all that came from it. With METAQ_NO_THREADS defined one scope holds for the whole program.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace metaq {

// Memory of a caller. `allocate` gives `size` bytes at a multiple of `alignment`, a power of two, or null; `release` takes back
// what `allocate` gave for the same size and alignment. Neither throws.
struct Allocator {
    void* (*allocate)(void* user, std::size_t size, std::size_t alignment);
    void (*release)(void* user, void* memory, std::size_t size, std::size_t alignment);
    void* user;
};

#ifdef METAQ_NO_THREADS
inline constinit const Allocator* current_allocator = nullptr;  // null: operator new
#else
inline constinit thread_local const Allocator* current_allocator = nullptr;  // null: operator new
#endif

class AllocatorScope {
public:
    explicit AllocatorScope(const Allocator* allocator) : previous_(current_allocator) {
        current_allocator = allocator;
    }
    ~AllocatorScope() { current_allocator = previous_; }
    AllocatorScope(const AllocatorScope&) = delete;
    AllocatorScope& operator=(const AllocatorScope&) = delete;

private:
    const Allocator* previous_;
};

// Null if there is no memory.
inline void* allocate_bytes(const Allocator* allocator, std::size_t size, std::size_t alignment) noexcept {
    if (allocator != nullptr) return allocator->allocate(allocator->user, size, alignment);
#ifdef METAQ_NO_HEAP
    return nullptr;
#else
    if (alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__) return ::operator new(size, std::nothrow);
    return ::operator new(size, std::align_val_t{alignment}, std::nothrow);
#endif
}

inline void release_bytes(const Allocator* allocator, void* memory, std::size_t size, std::size_t alignment) noexcept {
    if (memory == nullptr) return;
    if (allocator != nullptr) return allocator->release(allocator->user, memory, size, alignment);
#ifndef METAQ_NO_HEAP
    if (alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__) return ::operator delete(memory);
    ::operator delete(memory, std::align_val_t{alignment});
#endif
}

template <class T>
struct Releaser {
    const Allocator* allocator = nullptr;

    void operator()(T* object) const noexcept {
        object->~T();
        release_bytes(allocator, object, sizeof(T), alignof(T));
    }
};

template <class T>
using Owned = std::unique_ptr<T, Releaser<T>>;

// Null if there is no memory. Members without an initializer hold anything.
template <class T>
Owned<T> make_owned() noexcept {
    void* const memory = allocate_bytes(current_allocator, sizeof(T), alignof(T));
    return {memory == nullptr ? nullptr : ::new (memory) T, Releaser<T>{current_allocator}};
}

}  // namespace metaq
