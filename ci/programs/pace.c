/*
 * pace: what MPI costs between ranks, `pace METRIC BYTES`, for one library after the other.
 *
 *   latency      half of a round trip between ranks 0 and 1, the median, in microseconds
 *   bandwidth    windows of messages from 0 to 1, each answered, in 10^6 bytes a second
 *   rate         the same in 10^6 messages a second
 *   allreduce, alltoall, bcast, barrier
 *                the median of the slowest rank's time, in microseconds
 *
 * BYTES is what one rank has; of alltoall, what it has for each. How often, follows from how long the
 * first ones took, so that a run takes a moment whatever the library. At the end every byte of one more
 * message, or collective, is checked; a wrong one ends the job with code 99.
 *
 * Rank 0 prints one line: `pace METRIC BYTES RANKS VALUE`.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    WINDOW = 64,
    SAMPLES_MIN = 5,
    SAMPLES_MAX = 20000,
    BATCH_MAX = 200,
    FIRST = 3, /* Measured to learn how long it takes. */
    MESSAGE = 1,
    ANSWER = 2,
    USAGE_CODE = 64,
    MISMATCH_CODE = 99
};

static const double MEASURED_S = 0.3;  /* What a run measures for, about. */
static const double WARM_UP_S = 0.05;  /* And before. */
static const double BATCH_S = 20e-6;   /* Shorter things are timed by the batch: the clock costs time too. */

static const char *metric;
static int bytes, rank, ranks;
static unsigned char *to, *from;

/* Not the library's own clock: some cost more than others. */
static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static int is(const char *name)
{
    return !strcmp(metric, name);
}

static void round_trip(void)
{
    if (rank == 0) {
        MPI_Send(to, bytes, MPI_BYTE, 1, MESSAGE, MPI_COMM_WORLD);
        MPI_Recv(from, bytes, MPI_BYTE, 1, MESSAGE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else if (rank == 1) {
        MPI_Recv(from, bytes, MPI_BYTE, 0, MESSAGE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(to, bytes, MPI_BYTE, 0, MESSAGE, MPI_COMM_WORLD);
    }
}

static void window(void)
{
    MPI_Request requests[WINDOW];
    MPI_Status statuses[WINDOW];
    if (rank > 1)
        return;
    for (int i = 0; i < WINDOW; i++) {
        if (rank == 0)
            MPI_Isend(to, bytes, MPI_BYTE, 1, MESSAGE, MPI_COMM_WORLD, &requests[i]);
        else
            MPI_Irecv(from, bytes, MPI_BYTE, 0, MESSAGE, MPI_COMM_WORLD, &requests[i]);
    }
    MPI_Waitall(WINDOW, requests, statuses);
    if (rank == 0)
        MPI_Recv(from, 1, MPI_BYTE, 1, ANSWER, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    else
        MPI_Send(to, 1, MPI_BYTE, 0, ANSWER, MPI_COMM_WORLD);
}

static void collective(void)
{
    if (is("allreduce"))
        MPI_Allreduce(to, from, bytes / (int)sizeof(double), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    else if (is("alltoall"))
        MPI_Alltoall(to, bytes, MPI_BYTE, from, bytes, MPI_BYTE, MPI_COMM_WORLD);
    else if (is("bcast"))
        MPI_Bcast(to, bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    else
        MPI_Barrier(MPI_COMM_WORLD);
}

static double timed_batch(void (*once)(void), int batch)
{
    double start = now();
    for (int i = 0; i < batch; i++)
        once();
    return (now() - start) / batch;
}

/* All start together; rank 0 gets the slowest one's time. */
static double timed_collective(void (*once)(void), int batch)
{
    double mine, slowest = 0;
    (void)batch;
    MPI_Barrier(MPI_COMM_WORLD);
    mine = timed_batch(once, 1);
    MPI_Reduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    return slowest;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static int between(double value, int least, int most)
{
    return value < least ? least : value > most ? most : (int)value;
}

/*
 * The median sample in seconds, on rank 0. Rank 0 says how many there are, and how long a batch is: all
 * must do the same.
 */
static double sampled(void (*once)(void), double (*timed)(void (*)(void), int))
{
    static double samples[SAMPLES_MAX];
    enum { WARM_UPS, BATCH, COUNT, PLANS };
    int plan[PLANS];
    double each = 0, start;

    timed(once, 1); /* Connects. */
    start = now();
    for (int i = 0; i < FIRST; i++)
        timed(once, 1);
    each = (now() - start) / FIRST;
    plan[WARM_UPS] = between(WARM_UP_S / each, 1, SAMPLES_MAX);
    MPI_Bcast(plan, PLANS, MPI_INT, 0, MPI_COMM_WORLD);

    start = now();
    for (int i = 0; i < plan[WARM_UPS]; i++)
        timed(once, 1);
    each = (now() - start) / plan[WARM_UPS];
    plan[BATCH] = timed == timed_batch ? between(BATCH_S / each, 1, BATCH_MAX) : 1;
    plan[COUNT] = between(MEASURED_S / each / plan[BATCH], SAMPLES_MIN, SAMPLES_MAX);
    MPI_Bcast(plan, PLANS, MPI_INT, 0, MPI_COMM_WORLD);

    for (int i = 0; i < plan[COUNT]; i++)
        samples[i] = timed(once, plan[BATCH]);
    qsort(samples, plan[COUNT], sizeof *samples, ascending);
    return samples[plan[COUNT] / 2];
}

/* What a rank has for another at this place; so small that a sum over ranks is exact. */
static unsigned char pattern(int of, int with, long at)
{
    return (unsigned char)(of * 31 + with * 17 + at * 7 + at / 251);
}

static void fill(unsigned char *buffer, int of, int with)
{
    for (long i = 0; i < bytes; i++)
        buffer[i] = pattern(of, with, i);
}

static void check(const unsigned char *buffer, int of, int with)
{
    for (long i = 0; i < bytes; i++)
        if (buffer[i] != pattern(of, with, i)) {
            fprintf(stderr, "pace: %s: rank %d has a wrong byte at %ld of rank %d's\n", metric, rank, i, of);
            MPI_Abort(MPI_COMM_WORLD, MISMATCH_CODE);
        }
}

static void check_sum(void)
{
    double *mine = (double *)to, *sums = (double *)from;
    long count = bytes / (long)sizeof(double);
    for (long i = 0; i < count; i++)
        mine[i] = pattern(rank, 0, i);
    collective();
    for (long i = 0; i < count; i++) {
        double expected = 0;
        for (int of = 0; of < ranks; of++)
            expected += pattern(of, 0, i);
        if (sums[i] != expected) {
            fprintf(stderr, "pace: allreduce: rank %d has a wrong sum at %ld\n", rank, i);
            MPI_Abort(MPI_COMM_WORLD, MISMATCH_CODE);
        }
    }
}

static void check_payload(void)
{
    if (is("allreduce")) {
        check_sum();
    } else if (is("alltoall")) {
        for (int with = 0; with < ranks; with++)
            fill(to + (size_t)with * bytes, rank, with);
        collective();
        for (int of = 0; of < ranks; of++)
            check(from + (size_t)of * bytes, of, rank);
    } else if (is("bcast")) {
        fill(to, rank, 0);
        collective();
        check(to, 0, 0);
    } else if (!is("barrier")) {
        fill(to, rank, 1 - rank);
        round_trip();
        if (rank < 2)
            check(from, 1 - rank, rank);
    }
}

static void usage(void)
{
    fprintf(stderr, "usage: pace latency|bandwidth|rate|allreduce|alltoall|bcast|barrier BYTES, on 2 ranks or more; "
                    "BYTES at least 1 (barrier: 0), of allreduce a multiple of %zu\n", sizeof(double));
    MPI_Abort(MPI_COMM_WORLD, USAGE_CODE);
}

int main(int argc, char **argv)
{
    double value = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    metric = argc == 3 ? argv[1] : "";
    bytes = argc == 3 ? atoi(argv[2]) : -1;
    int one_way = is("bandwidth") || is("rate");
    int known = one_way || is("latency") || is("allreduce") || is("alltoall") || is("bcast") || is("barrier");
    if (!known || bytes < !is("barrier") || ranks < 2 || (is("allreduce") && bytes % sizeof(double)))
        usage();
    size_t memory = (size_t)bytes * ranks + 1;
    to = malloc(memory);
    from = malloc(memory);
    if (!to || !from) {
        fprintf(stderr, "pace: no memory for %zu bytes\n", 2 * memory);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    /* Touched, and not all the same page; zero, so that sums stay so. */
    memset(to, 0, memory);
    memset(from, 0, memory);

    if (is("latency"))
        value = sampled(round_trip, timed_batch) / 2 * 1e6;
    else if (one_way)
        value = (is("rate") ? 1 : bytes) * WINDOW / sampled(window, timed_batch) / 1e6;
    else
        value = sampled(collective, timed_collective) * 1e6;
    check_payload();
    if (rank == 0)
        printf("pace %s %d %d %.6f\n", metric, bytes, ranks, value);
    fflush(stdout); /* Not every library gets through its MPI_Finalize. */
    free(to);
    free(from);
    MPI_Finalize();
    return 0;
}
