/* Preloaded into every process of a gateway under test: a slow or failing disk and a
 * wrong clock, for code of every language in it.
 *
 * FAULT_MACHINE names a file of 64-bit integers, mapped and read at each call:
 * milliseconds that each fsync and fdatasync takes longer; seconds that the clock of
 * the day is off; the error (errno) that everything fails with that changes a file
 * below the folder FAULT_DISK, or 0; and, written here, how often fsync was slowed
 * down and how often something failed.
 * The monotonic clock is left alone, as a real step of the clock leaves it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { DELAY, CLOCK, ERROR, SLOWED, FAILED, FIELDS };

static volatile int64_t nothing[FIELDS];
static volatile int64_t *machine = nothing;
static const char *disk;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("FAULT_MACHINE");
    disk = getenv("FAULT_DISK");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (name == NULL)
        return;
    int file = open(name, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        machine = mapped;
}

static void wait_for_disk(void)
{
    int64_t milliseconds = machine[DELAY];
    if (milliseconds <= 0)
        return;
    struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
    __sync_fetch_and_add(&machine[SLOWED], 1);
}

/* Whether the disk fails now; errno is set then. */
static int refused(void)
{
    int error = (int)machine[ERROR];
    if (error == 0)
        return 0;
    __sync_fetch_and_add(&machine[FAILED], 1);
    errno = error;
    return 1;
}

static int is_below(const char *path)
{
    return disk != NULL && strncmp(path, disk, strlen(disk)) == 0;
}

static int of_file(int file)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

int fsync(int file)
{
    wait_for_disk();
    if (machine[ERROR] && of_file(file) && refused())
        return -1;
    return real_fsync(file);
}

int fdatasync(int file)
{
    wait_for_disk();
    if (machine[ERROR] && of_file(file) && refused())
        return -1;
    return real_fdatasync(file);
}

#define CHANGING (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)

#define OPENING(name, before, arguments, path)                                        \
    int name(before const char *path, int flags, ...)                                 \
    {                                                                                 \
        static int (*real)(before const char *, int, ...);                            \
        va_list more;                                                                 \
        va_start(more, flags);                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;       \
        va_end(more);                                                                 \
        if (real == NULL)                                                             \
            real = dlsym(RTLD_NEXT, #name);                                           \
        if (machine[ERROR] && (flags & CHANGING) && is_below(path) && refused())      \
            return -1;                                                                \
        return real(arguments path, flags, mode);                                     \
    }
#define COMMA ,

OPENING(open, , , path)
OPENING(open64, , , path)
OPENING(openat, int folder COMMA, folder COMMA, path)
OPENING(openat64, int folder COMMA, folder COMMA, path)

#define WRITING(name, more, pass)                                                     \
    ssize_t name(int file, const void *octets, size_t size more)                      \
    {                                                                                 \
        static ssize_t (*real)(int, const void *, size_t more);                       \
        if (real == NULL)                                                             \
            real = dlsym(RTLD_NEXT, #name);                                           \
        if (machine[ERROR] && of_file(file) && refused())                             \
            return -1;                                                                \
        return real(file, octets, size pass);                                         \
    }

WRITING(write, , )
WRITING(pwrite, COMMA off_t place, COMMA place)
WRITING(pwrite64, COMMA off64_t place, COMMA place)

#define NAMING(name, parameters, condition, pass)                                     \
    int name parameters                                                               \
    {                                                                                 \
        static int (*real) parameters;                                                \
        if (real == NULL)                                                             \
            real = dlsym(RTLD_NEXT, #name);                                           \
        if (machine[ERROR] && is_below(condition) && refused())                       \
            return -1;                                                                \
        return real pass;                                                             \
    }

NAMING(rename, (const char *from, const char *to), to, (from, to))
NAMING(unlink, (const char *path), path, (path))
NAMING(mkdir, (const char *path, mode_t mode), path, (path, mode))

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (real_clock_gettime == NULL)
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += machine[CLOCK];
    return result;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where != NULL)
        *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict where, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    where->tv_sec = now.tv_sec;
    where->tv_usec = now.tv_nsec / 1000;
    return 0;
}
