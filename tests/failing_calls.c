// Loaded before the C library (LD_PRELOAD): calls that change a file fail, or are cut short, from the n-th on.
// Only those on what lies below the folder that the environment variable FAILING_CALLS_FOLDER names.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// In the order of `Failure` in failing_calls.py.
enum { NONE, ONCE, FROM_THEN_ON, DISK_FULL, SHORT_WRITES };

// Shared with forked processes, so that the one that forked sees what became of them.
static struct {
    int failure;
    long at;
    long calls;
    char failed[32];  // the first call that failed
}* state;

__attribute__((constructor)) static void start(void) {
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (state == MAP_FAILED) abort();
}

void failing_calls_begin(int failure, long at) {
    memset(state, 0, sizeof *state);
    state->failure = failure;
    state->at = at;
}

long failing_calls_count(void) { return state->calls; }

const char* failing_calls_failed(void) { return state->failed; }

static int is_below(const char* path) {
    const char* folder = getenv("FAILING_CALLS_FOLDER");
    size_t size = folder ? strlen(folder) : 0;
    return size && strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == 0);
}

static int is_open_below(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

static int is_named_below(int folder, const char* path) {
    if (path[0] == '/') return is_below(path);
    char current[4096];
    return folder == AT_FDCWD ? getcwd(current, sizeof current) && is_below(current) : is_open_below(folder);
}

// Counts a call. Whether it is to fail, with errno set: of a full disk only what takes room does.
static int fails(const char* name, int takes_room) {
    long number = __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST);
    int is_over = state->failure == ONCE ? number == state->at : number >= state->at;
    if (!is_over || state->failure == NONE || state->failure == SHORT_WRITES) return 0;
    if (state->failure == DISK_FULL && !takes_room) return 0;
    if (!state->failed[0]) snprintf(state->failed, sizeof state->failed, "%s", name);
    errno = state->failure == DISK_FULL ? ENOSPC : EIO;
    return 1;
}

// How many bytes of a write are to be done, 0 where it fails: of the one by which a disk becomes full, half.
static size_t room_for(const char* name, size_t size) {
    int is_last = state->failure == DISK_FULL && state->calls + 1 == state->at && size > 1;
    if (is_last) state->at += 1;
    if (fails(name, 1)) return 0;
    return (is_last || state->failure == SHORT_WRITES) && size > 1 ? size / 2 : size;
}

#define ORIGINAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITE(name, parameters, arguments)     \
    ssize_t name parameters {                  \
        if (is_open_below(file) && size > 0) { \
            size = room_for(#name, size);      \
            if (size == 0) return -1;          \
        }                                      \
        return ORIGINAL(name) arguments;       \
    }

WRITE(write, (int file, const void* data, size_t size), (file, data, size))
WRITE(pwrite, (int file, const void* data, size_t size, off_t place), (file, data, size, place))
WRITE(pwrite64, (int file, const void* data, size_t size, off64_t place), (file, data, size, place))
WRITE(sendfile, (int file, int from, off_t* place, size_t size), (file, from, place, size))
WRITE(sendfile64, (int file, int from, off64_t* place, size_t size), (file, from, place, size))
WRITE(copy_file_range, (int from, off64_t* start, int file, off64_t* place, size_t size, unsigned flags),
      (from, start, file, place, size, flags))

// A write of several pieces that is to be short is one of the first piece alone.
#define WRITE_PIECES(name, parameters, arguments)          \
    ssize_t name parameters {                              \
        if (is_open_below(file) && count > 0) {            \
            if (room_for(#name, 2) == 0) return -1;        \
            if (state->failure == SHORT_WRITES) count = 1; \
        }                                                  \
        return ORIGINAL(name) arguments;                   \
    }

WRITE_PIECES(writev, (int file, const struct iovec* pieces, int count), (file, pieces, count))
WRITE_PIECES(pwritev, (int file, const struct iovec* pieces, int count, off_t place), (file, pieces, count, place))
WRITE_PIECES(pwritev64, (int file, const struct iovec* pieces, int count, off64_t place), (file, pieces, count, place))

#define CHANGE(name, parameters, arguments, is_concerned, takes_room) \
    int name parameters {                                             \
        if ((is_concerned) && fails(#name, takes_room)) return -1;    \
        return ORIGINAL(name) arguments;                              \
    }

CHANGE(fsync, (int file), (file), is_open_below(file), 0)
CHANGE(fdatasync, (int file), (file), is_open_below(file), 0)
CHANGE(ftruncate, (int file, off_t size), (file, size), is_open_below(file), 1)
CHANGE(ftruncate64, (int file, off64_t size), (file, size), is_open_below(file), 1)
CHANGE(fchmod, (int file, mode_t mode), (file, mode), is_open_below(file), 0)
CHANGE(chmod, (const char* path, mode_t mode), (path, mode), is_named_below(AT_FDCWD, path), 0)
CHANGE(rename, (const char* path, const char* target), (path, target), is_named_below(AT_FDCWD, target), 0)
CHANGE(renameat, (int folder, const char* path, int other, const char* target), (folder, path, other, target),
       is_named_below(other, target), 0)
CHANGE(link, (const char* path, const char* target), (path, target), is_named_below(AT_FDCWD, target), 1)
CHANGE(symlink, (const char* path, const char* target), (path, target), is_named_below(AT_FDCWD, target), 1)
CHANGE(mkdir, (const char* path, mode_t mode), (path, mode), is_named_below(AT_FDCWD, path), 1)
CHANGE(mkdirat, (int folder, const char* path, mode_t mode), (folder, path, mode), is_named_below(folder, path), 1)
CHANGE(rmdir, (const char* path), (path), is_named_below(AT_FDCWD, path), 0)
CHANGE(unlink, (const char* path), (path), is_named_below(AT_FDCWD, path), 0)
CHANGE(unlinkat, (int folder, const char* path, int flags), (folder, path, flags), is_named_below(folder, path), 0)

static int is_nameless(int flags) { return (flags & O_TMPFILE) == O_TMPFILE; }

static int refuses_to_open(int folder, const char* path, int flags) {
    if (!(flags & (O_CREAT | O_TRUNC)) && !is_nameless(flags)) return 0;
    return is_named_below(folder, path) && fails(is_nameless(flags) ? "open of no name" : "open", 1);
}

#define OPEN(name, folder, parameters, arguments)            \
    int name parameters {                                    \
        mode_t mode = 0;                                     \
        if ((flags & O_CREAT) || is_nameless(flags)) {       \
            va_list more;                                    \
            va_start(more, flags);                           \
            mode = va_arg(more, mode_t);                     \
            va_end(more);                                    \
        }                                                    \
        if (refuses_to_open(folder, path, flags)) return -1; \
        return ORIGINAL(name) arguments;                     \
    }

OPEN(open, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(openat, at, (int at, const char* path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, at, (int at, const char* path, int flags, ...), (at, path, flags, mode))
