/* Loaded into CRIU (see criu-tree.sh): a SIGCONT that reaches a process while CRIU works on it does
 * no harm.
 *
 * A process that is traced by PTRACE_SEIZE stops with PTRACE_EVENT_STOP whenever a SIGCONT is sent
 * to it, blocked or not, so that its tracer may learn of job control (ptrace(2), "Group-stop").
 * CRIU does not expect that: it gives up, in the worst case with a thread inside its code. Here such
 * a stop, if CRIU did not ask for it by PTRACE_INTERRUPT, is answered by letting the thread go on as
 * CRIU last did, and CRIU never sees it.
 *
 * CRIU itself is unchanged. Without this file moves work too; a dump that a SIGCONT spoils is then
 * tried again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

/* Threads that are traced at one time; further ones are not looked after. */
#define SLOTS 65536

struct thread {
    pid_t id;
    int asked;  /* PTRACE_INTERRUPT, and no stop has been reported since. */
    int resume; /* How it was last let go. */
};

static struct thread threads[SLOTS];

static long (*next_ptrace)(int, pid_t, void *, void *);
static pid_t (*next_wait4)(pid_t, int *, int, struct rusage *);

__attribute__((constructor)) static void find_next(void) {
    next_ptrace = (long (*)(int, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
    next_wait4 = (pid_t(*)(pid_t, int *, int, struct rusage *))dlsym(RTLD_NEXT, "wait4");
}

static struct thread *find(pid_t id, int make) {
    for (unsigned step = 0; step < 64; step++) {
        struct thread *slot = &threads[((unsigned)id * 2654435761u + step) % SLOTS];
        if (slot->id == id)
            return slot;
        if (slot->id == 0) {
            if (!make)
                return NULL;
            slot->asked = 0;
            slot->resume = PTRACE_CONT;
            slot->id = id;
            return slot;
        }
    }
    return NULL;
}

/* Declared with a variable number of arguments; all callers pass four. */
long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t id = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    struct thread *thread = NULL;
    switch ((int)request) {
    case PTRACE_SEIZE:
        thread = find(id, 1);
        if (thread) {
            thread->asked = 0;
            thread->resume = PTRACE_CONT;
        }
        break;
    case PTRACE_INTERRUPT:
        if ((thread = find(id, 0)))
            thread->asked = 1;
        break;
    case PTRACE_CONT:
    case PTRACE_SYSCALL:
        if ((thread = find(id, 0)))
            thread->resume = (int)request;
        break;
    }
    return next_ptrace((int)request, id, address, data);
}

/* Whether the stop is one that CRIU did not ask for; if so, the thread goes on. */
static int passed_over(pid_t id, int status) {
    if (!WIFSTOPPED(status) || status >> 16 != PTRACE_EVENT_STOP)
        return 0;
    struct thread *thread = find(id, 0);
    if (!thread)
        return 0;
    if (thread->asked) {
        thread->asked = 0;
        return 0;
    }
    int kept = errno;
    int gone = next_ptrace(thread->resume, id, NULL, NULL) != 0;
    errno = kept;
    return !gone;
}

pid_t wait4(pid_t id, int *status, int options, struct rusage *usage) {
    int own = 0;
    for (;;) {
        pid_t found = next_wait4(id, &own, options, usage);
        if (found > 0 && passed_over(found, own))
            continue;
        if (status)
            *status = own;
        return found;
    }
}

pid_t waitpid(pid_t id, int *status, int options) {
    return wait4(id, status, options, NULL);
}
