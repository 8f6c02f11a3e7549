/* Tries every address family, and every way that leads around a filter of socket calls. Each
   prints what came of it: "made", or the number of the error. A call that a filter punishes with
   the end of the process is tried in a process of its own. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void said(const char *what, int family, long result)
{
    if (result >= 0)
        printf("%s %d made\n", what, family);
    else
        printf("%s %d error %ld\n", what, family, -result);
    fflush(stdout);
}

static long outcome(long result)
{
    return result < 0 ? -errno : result;
}

static void alone(const char *what, int family, long (*try)(int))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        said(what, family, try(family));
        _exit(0);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s %d signal %d\n", what, family, WTERMSIG(status));
    fflush(stdout);
}

/* The first type of socket that the family has. */
static long by_socket(int family)
{
    static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET };
    long result = -EAFNOSUPPORT;
    for (unsigned i = 0; i < sizeof types / sizeof *types && result < 0; i++)
        result = outcome(syscall(SYS_socket, family, types[i], 0));
    if (result >= 0)
        close((int)result);
    return result;
}

static long by_pair(int family)
{
    int pair[2];
    return outcome(syscall(SYS_socketpair, family, SOCK_STREAM, 0, pair));
}

/* The upper half of an int is not looked at by the kernel, and must not mislead a filter. */
static long by_wide(int family)
{
    return outcome(syscall(SYS_socket, 0x100000000L | family, SOCK_STREAM, 0));
}

static long by_ring(int family)
{
    char parameters[256];
    (void)family;
    memset(parameters, 0, sizeof parameters);
    return outcome(syscall(425, 1, parameters));
}

#ifdef __x86_64__
static long call32(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(first), "c"(second), "d"(third)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long by_call32(int family)
{
    return call32(359, family, SOCK_STREAM, 0);
}

static long by_socketcall(int family)
{
    unsigned *arguments = mmap(0, 4096, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    arguments[0] = (unsigned)family;
    arguments[1] = SOCK_STREAM;
    arguments[2] = 0;
    return call32(102, 1, (long)arguments, 0);
}

static long by_x32(int family)
{
    return outcome(syscall(0x40000000 | SYS_socket, family, SOCK_STREAM, 0));
}
#endif

int main(void)
{
    for (int family = 0; family < 64; family++)
        said("socket", family, by_socket(family));
    for (int family = 0; family < 64; family++)
        said("pair", family, by_pair(family));
    said("wide", AF_VSOCK, by_wide(AF_VSOCK));
    said("wide", AF_UNIX, by_wide(AF_UNIX));
    alone("ring", 0, by_ring);
#ifdef __x86_64__
    alone("call32", AF_UNIX, by_call32);
    alone("socketcall", AF_UNIX, by_socketcall);
    alone("x32", AF_UNIX, by_x32);
#endif
    puts("tried all");
    return 0;
}
