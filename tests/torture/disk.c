/* A disk in the hands of a test: a library that is preloaded into the server (LD_PRELOAD), below everything it does.

   For files below one folder it
   - writes a journal of all that changes them and of all that syncs them, from which power.py makes the folder that a
     power loss would have left;
   - lets chosen calls fail, takes its time over syncs, or kills the process at the n-th call, half-way through a write.
   For the whole process it moves the clock.

   What is to happen stands in a page of memory shared with the test, and may change at any time. A journal record is
   written after its call has returned and before the caller knows; a sync has one before it as well. So what the journal
   has before a sync's beginning, the sync covers, and what it lacks was never promised to anybody.

   Environment: TORTURE_ROOT (the folder), TORTURE_CONTROL (the page's file), TORTURE_JOURNAL (none: no journal).
   What it does not see: writes through mmap (SQLite's -shm, which is rebuilt), fds that were duplicated, the *at calls. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The control page, as power.py knows it: 64-bit numbers. */
enum { CLOCK_US, SYNC_DELAY_US, FAIL_OPS, FAIL_FILES, FAIL_ERRNO, FAIL_AFTER, FAIL_COUNT, FAILED, KILL_OPS, KILL_AFTER,
       CALLS, ARM_OPS, FAILED_US, CONTROLS };

enum { WRITE = 1, FSYNC = 2, FDATASYNC = 4, TRUNCATE = 8, RENAME = 16, UNLINK = 32, OPEN = 64, CREATE = 128,
       MKDIR = 256, LINK = 512, ALLOCATE = 1024, SYNC_BEGIN = 2048, SYNC_FAILED = 4096, ZERO = 8192 };

enum { DATABASE = 1, LOG = 2, CONTENT = 4, OTHER = 8, FOLDER = 16 };

struct record { uint32_t magic, op; uint64_t inode; int64_t offset, length; uint32_t name, other; };
#define MAGIC 0x6d664a31u
#define MOST_FDS 65536

static struct { uint64_t inode; int kind; } files[MOST_FDS]; /* kind 0: not ours */
static volatile int64_t *control;
static int journal = -1;
static char root[PATH_MAX];
static size_t root_length;

#define REAL(type, name, ...) static type (*real_##name)(__VA_ARGS__)
REAL(int, open64, const char *, int, ...);
REAL(int, close, int);
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t);
REAL(ssize_t, pwritev64v2, int, const struct iovec *, int, off64_t, int);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, sync_file_range, int, off64_t, off64_t, unsigned);
REAL(int, ftruncate64, int, off64_t);
REAL(int, fallocate64, int, int, off64_t, off64_t);
REAL(int, posix_fallocate64, int, off64_t, off64_t);
REAL(int, rename, const char *, const char *);
REAL(int, link, const char *, const char *);
REAL(int, unlink, const char *);
REAL(int, mkdir, const char *, mode_t);
REAL(int, clock_gettime, clockid_t, struct timespec *);
REAL(int, gettimeofday, struct timeval *, void *);
REAL(long, syscall, long, ...);

static void ready(void) {
    static int done;
    if (done) return;
    done = 1;
#define FIND(name) real_##name = dlsym(RTLD_NEXT, #name)
    FIND(open64); FIND(close); FIND(write); FIND(writev); FIND(pwrite64); FIND(pwritev64); FIND(pwritev64v2);
    FIND(fsync); FIND(fdatasync); FIND(sync_file_range); FIND(ftruncate64); FIND(fallocate64);
    FIND(posix_fallocate64); FIND(rename); FIND(link); FIND(unlink); FIND(mkdir); FIND(clock_gettime);
    FIND(gettimeofday); FIND(syscall);
    const char *page = getenv("TORTURE_CONTROL"), *log = getenv("TORTURE_JOURNAL");
    const char *folder = getenv("TORTURE_ROOT");
    if (!page || !folder || !realpath(folder, root)) return;
    root_length = strlen(root);
    int fd = real_open64(page, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    void *memory = mmap(NULL, CONTROLS * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    if (memory == MAP_FAILED) abort();
    if (log && (journal = real_open64(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0) abort();
    control = memory;
}

__attribute__((constructor)) static void begin(void) { ready(); }

/* Which files are ours */

static const char *below(const char *path) { /* the path below the folder, or NULL */
    static __thread char whole[2 * PATH_MAX];
    if (!control) return NULL;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return NULL;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    size_t length = strlen(path);
    if (length >= 4 && !strcmp(path + length - 4, "-shm")) return NULL;
    if (strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/')) return NULL;
    return path[root_length] ? path + root_length + 1 : path + root_length;
}

static int kind_of(const char *name, mode_t mode) {
    size_t length = strlen(name);
    if (S_ISDIR(mode)) return FOLDER;
    if (length >= 4 && !strcmp(name + length - 4, "-wal")) return LOG;
    if (length >= 3 && !strcmp(name + length - 3, ".db")) return DATABASE;
    return strstr(name, "content/") || strstr(name, "segments/") ? CONTENT : OTHER;
}

static int kind(int fd) { return fd >= 0 && fd < MOST_FDS && control ? files[fd].kind : 0; }

/* The journal */

static void note(uint32_t op, uint64_t inode, int64_t offset, const char *name, const char *other, const void *data,
                 size_t length) {
    if (journal < 0) return;
    struct record r = {MAGIC, op, inode, offset, (int64_t)length, name ? strlen(name) : 0, other ? strlen(other) : 0};
    struct iovec parts[4] = {{&r, sizeof r}, {(void *)name, r.name}, {(void *)other, r.other}, {(void *)data, data ? length : 0}};
    if (real_writev(journal, parts, 4) < (ssize_t)(sizeof r + r.name + r.other + parts[3].iov_len)) abort();
}

/* What the test wants */

static int64_t take(int which) { return __atomic_fetch_sub(&control[which], 1, __ATOMIC_SEQ_CST); }

static int fails(int op, int of) { /* whether this call is to fail; errno is set then */
    if (!(control[FAIL_OPS] & op) || !(control[FAIL_FILES] & of) || control[FAIL_COUNT] <= 0) return 0;
    if (control[FAIL_AFTER] > 0 && take(FAIL_AFTER) > 0) return 0;
    if (take(FAIL_COUNT) <= 0) return 0;
    if (__atomic_fetch_add(&control[FAILED], 1, __ATOMIC_SEQ_CST) == 0) {
        struct timespec now;
        real_clock_gettime(CLOCK_MONOTONIC, &now);
        control[FAILED_US] = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
    }
    if (control[ARM_OPS]) control[KILL_OPS] = control[ARM_OPS]; /* from the first failure on */
    errno = (int)control[FAIL_ERRNO];
    return 1;
}

static int last(int op) { /* whether the process is to end at this call */
    __atomic_add_fetch(&control[CALLS], 1, __ATOMIC_SEQ_CST);
    return (control[KILL_OPS] & op) && take(KILL_AFTER) == 1;
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Opening and closing */

static int opened(const char *path, int flags, mode_t mode) {
    ready();
    const char *name = below(path);
    if (!name) {
        int fd = real_open64(path, flags, mode);
        if (fd >= 0 && fd < MOST_FDS) files[fd].kind = 0;
        return fd;
    }
    int made = (flags & O_CREAT) && access(path, F_OK) != 0;
    if (made && last(CREATE)) end();
    if (made && fails(CREATE, kind_of(name, 0))) return -1;
    int fd = real_open64(path, flags, mode);
    struct stat info;
    if (fd < 0 || fd >= MOST_FDS || fstat(fd, &info)) return fd;
    files[fd].inode = info.st_ino;
    files[fd].kind = kind_of(name, info.st_mode);
    note(made ? CREATE : OPEN, info.st_ino, S_ISDIR(info.st_mode), name, NULL, NULL, 0);
    if (flags & O_TRUNC && !made) note(TRUNCATE, info.st_ino, 0, NULL, NULL, NULL, 0);
    return fd;
}

#define OPENS(name)                                           \
    int name(const char *path, int flags, ...) {              \
        mode_t mode = 0;                                      \
        if (flags & (O_CREAT | O_TMPFILE)) {                  \
            va_list more;                                     \
            va_start(more, flags);                            \
            mode = va_arg(more, mode_t);                      \
            va_end(more);                                     \
        }                                                     \
        return opened(path, flags, mode);                     \
    }
OPENS(open)
OPENS(open64)

int close(int fd) {
    ready();
    if (fd >= 0 && fd < MOST_FDS) files[fd].kind = 0;
    return real_close(fd);
}

/* Bytes */

static ssize_t written(int fd, ssize_t done, int64_t offset, const struct iovec *parts) {
    for (ssize_t left = done; left > 0; parts++) {
        size_t some = (size_t)left < parts->iov_len ? (size_t)left : parts->iov_len;
        note(WRITE, files[fd].inode, offset, NULL, NULL, parts->iov_base, some);
        offset += (int64_t)some;
        left -= (ssize_t)some;
    }
    return done;
}

static ssize_t put(int fd, const struct iovec *parts, int count, int64_t offset) { /* offset -1: where the file is */
    if (last(WRITE)) { /* half of it reaches the file */
        size_t half = parts->iov_len / 2;
        if (offset < 0) real_write(fd, parts->iov_base, half);
        else real_pwrite64(fd, parts->iov_base, half, offset);
        end();
    }
    if (fails(WRITE, files[fd].kind)) return -1;
    if (offset < 0) {
        ssize_t done = real_writev(fd, parts, count);
        return done > 0 ? written(fd, done, lseek64(fd, 0, SEEK_CUR) - done, parts) : done;
    }
    ssize_t done = real_pwritev64(fd, parts, count, offset);
    return done > 0 ? written(fd, done, offset, parts) : done;
}

ssize_t write(int fd, const void *data, size_t length) {
    ready();
    struct iovec part = {(void *)data, length};
    return kind(fd) ? put(fd, &part, 1, -1) : real_write(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ready();
    return kind(fd) ? put(fd, parts, count, -1) : real_writev(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    ready();
    struct iovec part = {(void *)data, length};
    return kind(fd) ? put(fd, &part, 1, offset) : real_pwrite64(fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    ready();
    return kind(fd) ? put(fd, parts, count, offset) : real_pwritev64(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    ready();
    return kind(fd) ? put(fd, parts, count, offset) : real_pwritev64v2(fd, parts, count, offset, flags);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return pwritev64v2(fd, parts, count, offset, flags);
}

int ftruncate64(int fd, off64_t length) {
    ready();
    if (!kind(fd)) return real_ftruncate64(fd, length);
    if (last(TRUNCATE)) end();
    if (fails(TRUNCATE, files[fd].kind)) return -1;
    int answer = real_ftruncate64(fd, length);
    if (!answer) note(TRUNCATE, files[fd].inode, length, NULL, NULL, NULL, 0);
    return answer;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    ready();
    if (!kind(fd)) return real_posix_fallocate64(fd, offset, length);
    if (last(ALLOCATE)) end();
    if (fails(ALLOCATE, files[fd].kind)) return errno;
    int answer = real_posix_fallocate64(fd, offset, length);
    if (!answer) note(ALLOCATE, files[fd].inode, offset + length, NULL, NULL, NULL, 0);
    return answer;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    ready();
    if (!kind(fd)) return real_fallocate64(fd, mode, offset, length);
    if (last(ALLOCATE)) end();
    if (fails(ALLOCATE, files[fd].kind)) return -1;
    int answer = real_fallocate64(fd, mode, offset, length);
    if (answer) return answer;
    if (mode & FALLOC_FL_PUNCH_HOLE) note(ZERO, files[fd].inode, offset, NULL, NULL, NULL, (size_t)length);
    else if (!(mode & FALLOC_FL_KEEP_SIZE)) note(ALLOCATE, files[fd].inode, offset + length, NULL, NULL, NULL, 0);
    return answer;
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

/* Syncs */

static int synced(int op, int (*real)(int), int fd) {
    if (!kind(fd)) return real(fd);
    if (last(op)) end();
    if (control[SYNC_DELAY_US]) usleep((useconds_t)control[SYNC_DELAY_US]);
    if (fails(op, files[fd].kind)) {
        note(SYNC_FAILED, files[fd].inode, 0, NULL, NULL, NULL, 0);
        return -1;
    }
    /* Two records of one thread around the call; the thread's number tells which belong together. */
    note(SYNC_BEGIN, files[fd].inode, gettid(), NULL, NULL, NULL, 0);
    int answer = journal < 0 ? real(fd) : 0; /* with a journal, what is durable is the journal's affair */
    if (!answer) note(op, files[fd].inode, gettid(), NULL, NULL, NULL, 0);
    return answer;
}

int fsync(int fd) {
    ready();
    return synced(FSYNC, real_fsync, fd);
}

int fdatasync(int fd) {
    ready();
    return synced(FDATASYNC, real_fdatasync, fd);
}

/* Syncs by the kernel, of which the caller hears later: one at a time */

static struct { int fd, error; } asked = {-1, 0};

static long submitted(long number, long context, long count, struct iocb **requests) {
    int fd = (int)requests[0]->aio_fildes;
    if (!kind(fd) || requests[0]->aio_lio_opcode != IOCB_CMD_FDSYNC) return real_syscall(number, context, count, requests);
    if (last(FDATASYNC)) end();
    if (control[SYNC_DELAY_US]) { errno = EAGAIN; return -1; } /* the caller's thread can wait, the loop must not */
    asked.fd = fd;
    asked.error = fails(FDATASYNC, files[fd].kind) ? errno : 0;
    if (!asked.error) note(SYNC_BEGIN, files[fd].inode, gettid(), NULL, NULL, NULL, 0);
    return real_syscall(number, context, count, requests);
}

static long told(long number, long context, long least, long most, struct io_event *events, void *timeout) {
    long found = real_syscall(number, context, least, most, events, timeout);
    if (found != 1 || asked.fd < 0) return found;
    if (asked.error) events[0].res = -asked.error;
    note(asked.error ? SYNC_FAILED : FDATASYNC, files[asked.fd].inode, asked.error ? 0 : gettid(), NULL, NULL, NULL, 0);
    asked.fd = -1;
    return found;
}

long syscall(long number, ...) {
    ready();
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (control && number == SYS_io_submit && a[1] == 1) return submitted(number, a[0], a[1], (struct iocb **)a[2]);
    if (control && number == SYS_io_getevents && a[2] == 1)
        return told(number, a[0], a[1], a[2], (struct io_event *)a[3], (void *)a[4]);
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) { /* promises nothing: no record */
    ready();
    return real_sync_file_range(fd, offset, length, flags);
}

/* Names */

static int named(int op, const char *path, const char *other, int (*real)(const char *, const char *)) {
    const char *name = below(path);
    char first[PATH_MAX];
    if (!name) return real(path, other);
    snprintf(first, sizeof first, "%s", name);
    if (last(op)) end();
    if (fails(op, kind_of(first, 0))) return -1;
    int answer = real(path, other);
    if (!answer) note(op, 0, 0, first, other ? below(other) : NULL, NULL, 0);
    return answer;
}

static int unlink_only(const char *path, const char *other) {
    (void)other;
    return real_unlink(path);
}

int rename(const char *from, const char *to) {
    ready();
    return named(RENAME, from, to, real_rename);
}

int link(const char *from, const char *to) {
    ready();
    return named(LINK, from, to, real_link);
}

int unlink(const char *path) {
    ready();
    return named(UNLINK, path, NULL, unlink_only);
}

int mkdir(const char *path, mode_t mode) {
    ready();
    const char *name = below(path);
    if (!name) return real_mkdir(path, mode);
    if (last(MKDIR)) end();
    if (fails(MKDIR, FOLDER)) return -1;
    int answer = real_mkdir(path, mode);
    if (!answer) note(MKDIR, 0, 0, name, NULL, NULL, 0);
    return answer;
}

/* The clock */

int clock_gettime(clockid_t clock, struct timespec *at) {
    ready();
    int answer = real_clock_gettime(clock, at);
    if (!answer && control && clock == CLOCK_REALTIME) {
        int64_t us = at->tv_sec * 1000000LL + at->tv_nsec / 1000 + control[CLOCK_US];
        at->tv_nsec = us % 1000000 * 1000 + at->tv_nsec % 1000;
        at->tv_sec = us / 1000000;
    }
    return answer;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
