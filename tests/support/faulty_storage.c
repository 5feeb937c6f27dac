/* Storage that fails, for LD_PRELOAD: the first $FAULT_TIMES calls of $FAULT_CALL (open or read) for a file whose path
   ends with $FAULT_PATH fail with the error number $FAULT_ERRNO. The variables may be changed while the program runs;
   another $FAULT_ROUND starts to count again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int used;
static char used_by[64];

static int fails(const char *call, const char *path) {
  const char *wanted = getenv("FAULT_PATH"), *which = getenv("FAULT_CALL"), *times = getenv("FAULT_TIMES");
  const char *code = getenv("FAULT_ERRNO"), *round = getenv("FAULT_ROUND");
  size_t length, tail;
  if (!wanted || !which || !times || !code || !path || strcmp(which, call) != 0) return 0;
  length = strlen(path), tail = strlen(wanted);
  if (length < tail || strcmp(path + length - tail, wanted) != 0) return 0;
  if (round && strncmp(round, used_by, sizeof used_by - 1) != 0) {
    snprintf(used_by, sizeof used_by, "%s", round);
    used = 0;
  }
  if (used >= atoi(times)) return 0;
  used++;
  errno = atoi(code);
  return 1;
}

static int fails_reading(int descriptor) {
  char link[64], path[4096];
  ssize_t length;
  int before = errno;
  if (!getenv("FAULT_CALL") || strcmp(getenv("FAULT_CALL"), "read") != 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length <= 0) return 0;
  path[length] = 0;
  return fails("read", path);
}

#define OPEN(name, parameters, before, path)                          \
  int name(parameters int flags, ...) {                               \
    int mode = 0;                                                     \
    va_list rest;                                                     \
    va_start(rest, flags);                                            \
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, int);      \
    va_end(rest);                                                     \
    if ((flags & O_ACCMODE) == O_RDONLY && fails("open", path)) return -1; \
    int (*real)() = dlsym(RTLD_NEXT, #name);                          \
    return real(before flags, mode);                                  \
  }
#define COMMA ,
OPEN(open, const char *path COMMA, path COMMA, path)
OPEN(open64, const char *path COMMA, path COMMA, path)
OPEN(openat, int folder COMMA const char *path COMMA, folder COMMA path COMMA, path)
OPEN(openat64, int folder COMMA const char *path COMMA, folder COMMA path COMMA, path)

ssize_t read(int descriptor, void *buffer, size_t count) {
  ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
  return fails_reading(descriptor) ? -1 : real(descriptor, buffer, count);
}
ssize_t pread(int descriptor, void *buffer, size_t count, off_t at) {
  ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread");
  return fails_reading(descriptor) ? -1 : real(descriptor, buffer, count, at);
}
ssize_t pread64(int descriptor, void *buffer, size_t count, off64_t at) {
  ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
  return fails_reading(descriptor) ? -1 : real(descriptor, buffer, count, at);
}
