/* A time of day that can be set while a process runs: LD_PRELOAD this, and name a file with 8 bytes, the offset in
   seconds, in SOAK_CLOCK. (libfaketime 0.9.10 fails with Python 3.11, whose time.sleep waits for an absolute time.) */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none = 0, *offset = &none;

__attribute__((constructor)) static void open_clock(void)
{
    const char *path = getenv("SOAK_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED)
        offset = found;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *at)
{
    int result = syscall(SYS_clock_gettime, id, at);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        at->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    int result = syscall(SYS_gettimeofday, at, zone);
    if (!result && at)
        at->tv_sec += *offset;
    return result;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    static int (*original)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec real = *until;
    if (!original)
        original = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (real.tv_sec > 1000000000) /* a time of day, not seconds since the start */
        real.tv_sec -= *offset;
    return original(cond, mutex, &real);
}
