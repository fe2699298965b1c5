// Runs every registered test; the exit status is whether one failed.
#include <cstdio>

#include "check.hpp"

int main() {
    int passed = 0;
    int failed = 0;
    for (const check::Test& test : check::tests()) {
        check::has_failed() = false;
        test.run();
        check::has_failed() ? ++failed : ++passed;
        if (check::has_failed()) std::printf("FAILED: %s\n", test.name);
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
