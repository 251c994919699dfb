/*
 * steady: an MPI program that goes on until it is told to stop, checks all it receives, and ends
 * as it is told. The scenarios move its ranks about meanwhile.
 *
 * In each step every rank sends a numbered, patterned message to its right neighbour and checks
 * the one from its left; then all agree on whether to stop. A wrong byte ends the job with code 99.
 *
 *   --until FILE     stop when FILE exists (rank 0 looks)      --steps N      or after N steps
 *   --bytes N        size of a message (default 1000)          --pause-us N   sleep in each step
 *   --spin-us N      compute in each step                      --memory-mb N  touch so much memory
 *   --say N          a line on stdout and one on stderr every N steps, by each rank
 *   --log DIR        append each step's number to DIR/log.RANK
 *   --blocks FILE    write a block for each step into FILE, which all ranks share, by offset
 *   --echo           rank 0 answers each line of its standard input with "echo: LINE"
 *   --who N          the rank that the next three are about (default 0)
 *   --end HOW        it ends by exit:N, return:N, kill:SIGNAL, abort:N, or last (leaves at once,
 *                    without another step, when FILE.now exists); others finalize and return 0
 *   --hold WHAT      it holds something that can't move; see hold.h
 */
#include "hold.h"
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 64, MISMATCH_CODE = 99 };

static const char *until, *log_dir, *blocks, *end_how = "return:0", *hold_what;
static long steps = -1, bytes = 1000, pause_us, spin_us, memory_mb, say, who;
static int echo, rank, size;

static void read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--echo")) {
            echo = 1;
            continue;
        }
        i++;
        if (!strcmp(name, "--until")) until = value;
        else if (!strcmp(name, "--steps")) steps = atol(value);
        else if (!strcmp(name, "--bytes")) bytes = atol(value);
        else if (!strcmp(name, "--pause-us")) pause_us = atol(value);
        else if (!strcmp(name, "--spin-us")) spin_us = atol(value);
        else if (!strcmp(name, "--memory-mb")) memory_mb = atol(value);
        else if (!strcmp(name, "--say")) say = atol(value);
        else if (!strcmp(name, "--log")) log_dir = value;
        else if (!strcmp(name, "--blocks")) blocks = value;
        else if (!strcmp(name, "--who")) who = atol(value);
        else if (!strcmp(name, "--end")) end_how = value;
        else if (!strcmp(name, "--hold")) hold_what = value;
        else {
            fprintf(stderr, "steady: unknown option %s\n", name);
            exit(64);
        }
    }
}

static unsigned char pattern(long step, int from, long at)
{
    return (unsigned char)(step * 131 + from * 31 + at * 7);
}

static void mismatch(const char *what, long step)
{
    fprintf(stderr, "MISMATCH: rank %d, step %ld: %s\n", rank, step, what);
    MPI_Abort(MPI_COMM_WORLD, MISMATCH_CODE);
}

static void trade(long step, unsigned char *out, unsigned char *in)
{
    int right = (rank + 1) % size, left = (rank + size - 1) % size, count;
    MPI_Status status;
    for (long i = 0; i < bytes; i++)
        out[i] = pattern(step, rank, i);
    MPI_Sendrecv(out, bytes, MPI_BYTE, right, step % 1000, in, bytes, MPI_BYTE, left, step % 1000,
                 MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    if (count != bytes || status.MPI_SOURCE != left)
        mismatch("wrong size or source", step);
    for (long i = 0; i < bytes; i++)
        if (in[i] != pattern(step, left, i))
            mismatch("wrong byte", step);
}

static void spin(long microseconds)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000L + (now.tv_nsec - start.tv_nsec) / 1000 < microseconds);
}

static void write_whole(int fd, const char *data, size_t count, off_t offset)
{
    ssize_t done = offset < 0 ? write(fd, data, count) : pwrite(fd, data, count, offset);
    if (done != (ssize_t)count) {
        fprintf(stderr, "steady: rank %d: write: %s\n", rank, strerror(errno));
        MPI_Abort(MPI_COMM_WORLD, 98);
    }
}

static int open_or_die(const char *path, int flags)
{
    int fd = open(path, flags, 0644);
    if (fd < 0) {
        fprintf(stderr, "steady: %s: %s\n", path, strerror(errno));
        MPI_Abort(MPI_COMM_WORLD, 97);
    }
    return fd;
}

static void record(long step, int log_fd, int blocks_fd)
{
    char text[BLOCK_BYTES + 1];
    if (log_fd >= 0)
        write_whole(log_fd, text, snprintf(text, sizeof text, "%ld\n", step), -1);
    if (blocks_fd >= 0) {
        memset(text, '.', BLOCK_BYTES);
        int length = snprintf(text, sizeof text, "step %ld rank %d ", step, rank);
        text[length] = '.';
        text[BLOCK_BYTES - 1] = '\n';
        write_whole(blocks_fd, text, BLOCK_BYTES, (off_t)BLOCK_BYTES * (step * size + rank));
    }
    if (say && step % say == 0) {
        printf("out: rank %d step %ld\n", rank, step);
        fprintf(stderr, "err: rank %d step %ld\n", rank, step);
    }
}

static void answer_input(void)
{
    static int ended;
    static char line[4096];
    static size_t used;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (ended || poll(&input, 1, 0) <= 0)
        return;
    ssize_t count = read(0, line + used, sizeof line - used - 1);
    if (count <= 0) {
        printf("echo: end\n");
        ended = 1;
        return;
    }
    used += count;
    for (char *newline; (newline = memchr(line, '\n', used)); ) {
        *newline = 0;
        printf("echo: %s\n", line);
        used -= newline + 1 - line;
        memmove(line, newline + 1, used);
    }
}

/* 0: go on; 1: stop; the same on every rank. */
static int stop_now(long step)
{
    int stop = 0;
    if (rank == 0)
        stop = (until && access(until, F_OK) == 0) || (steps >= 0 && step + 1 >= steps);
    MPI_Bcast(&stop, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return stop;
}

static int finish(long step)
{
    long sum = 0, number = strchr(end_how, ':') ? atol(strchr(end_how, ':') + 1) : 0;
    MPI_Allreduce(&step, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (sum != step * size)
        mismatch("ranks disagree on the last step", step);
    if (rank == 0)
        printf("steady: ok steps=%ld ranks=%d\n", step + 1, size);
    fflush(stdout);
    if (rank == who && !strncmp(end_how, "kill:", 5))
        kill(getpid(), number);
    if (rank == who && !strncmp(end_how, "abort:", 6))
        MPI_Abort(MPI_COMM_WORLD, number);
    if (rank == who && !strncmp(end_how, "exit:", 5))
        exit(number);
    MPI_Finalize();
    return rank == who && !strncmp(end_how, "return:", 7) ? number : 0;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    char path[4096];
    int log_fd = -1, blocks_fd = -1;
    if (log_dir) {
        snprintf(path, sizeof path, "%s/log.%d", log_dir, rank);
        log_fd = open_or_die(path, O_WRONLY | O_CREAT | O_APPEND);
    }
    if (blocks)
        blocks_fd = open_or_die(blocks, O_WRONLY | O_CREAT);
    if (hold_what && rank == who)
        hold(hold_what);
    for (long mb = 0; mb < memory_mb && rank == who; mb++) {
        /* Not all alike, so that nobody can merge or skip the pages. */
        uint32_t *chunk = malloc(1 << 20);
        for (uint32_t i = 0; chunk && i < (1 << 20) / sizeof *chunk; i++)
            chunk[i] = i * 2654435761u ^ (uint32_t)mb;
    }

    unsigned char *out = malloc(bytes), *in = malloc(bytes);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        printf("steady: started\n");
    long step = 0;
    for (;; step++) {
        trade(step, out, in);
        record(step, log_fd, blocks_fd);
        if (echo && rank == 0)
            answer_input();
        if (spin_us)
            spin(spin_us);
        if (pause_us)
            usleep(pause_us);
        if (!strcmp(end_how, "last") && rank == who) {
            snprintf(path, sizeof path, "%s.now", until);
            if (access(path, F_OK) == 0)
                _exit(3);
        }
        if (stop_now(step))
            break;
    }
    return finish(step);
}
