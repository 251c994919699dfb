/* What a peer feels of a move: rank 0 sends 8 bytes to rank 1 and back, without end, and says when
 * an answer was late, and how long answers took before and after. Rank 1 holds MEGABYTES of memory.
 *
 *   gap MEGABYTES SECONDS
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 4096 };
static const double LATE = 0.020;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_us(const double *samples, long count)
{
    static double sorted[KEPT];
    long n = count < KEPT ? count : KEPT;
    if (n == 0)
        return 0;
    memcpy(sorted, samples, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return sorted[n / 2] * 1e6;
}

/* Half round trips until `end`; a late one is told of once as many again have been seen. */
static void watch(double end)
{
    static double samples[KEPT];
    double late = 0, before = 0;
    long count = 0;
    int token = 0;
    while (MPI_Wtime() < end) {
        double start = MPI_Wtime();
        MPI_Send(&token, 2, MPI_INT, 1, 1, MPI_COMM_WORLD);
        MPI_Recv(&token, 2, MPI_INT, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        double took = MPI_Wtime() - start;
        if (took >= LATE) {
            if (late == 0)
                before = median_us(samples, count);
            late = took > late ? took : late;
            count = 0;
            continue;
        }
        samples[count++ % KEPT] = took / 2;
        if (late > 0 && count == KEPT) {
            printf("gap_ms=%.1f before_us=%.2f after_us=%.2f\n", late * 1e3, before,
                   median_us(samples, count));
            fflush(stdout);
            late = 0;
        }
        if (count == KEPT && before == 0) {
            before = median_us(samples, count);
            printf("steady_us=%.2f\n", before);
            fflush(stdout);
        }
    }
}

int main(int argc, char **argv)
{
    int rank, token[2] = {0, 0};
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc != 3) {
        fprintf(stderr, "usage: gap MEGABYTES SECONDS\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    size_t bytes = (size_t)atol(argv[1]) << 20;
    char *held = NULL;
    if (rank == 1) {
        /* Pages that are not alike and not zero. */
        held = malloc(bytes);
        for (size_t at = 0; at + sizeof at <= bytes; at += 512)
            memcpy(held + at, &at, sizeof at);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        watch(MPI_Wtime() + atof(argv[2]));
        token[0] = -1;
        MPI_Send(token, 2, MPI_INT, 1, 2, MPI_COMM_WORLD);
    } else {
        for (;;) {
            MPI_Status status;
            MPI_Recv(token, 2, MPI_INT, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
            if (status.MPI_TAG == 2)
                break;
            MPI_Send(token, 2, MPI_INT, 0, 1, MPI_COMM_WORLD);
        }
    }
    free(held);
    MPI_Finalize();
    return 0;
}
