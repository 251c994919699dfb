/*
 * heat2d: the heat equation on a square plate, in plain MPI.
 *
 *     mpicc -O2 -o heat2d heat2d.c -lm
 *     mpirun -np 4 ./heat2d [N [STEPS [EVERY]]]
 *
 * The plate has N x N inner points. Its upper edge is hot, the other edges are cold, and a warm
 * spot lies off its centre. Each rank owns a block of rows; in every step it trades its first and
 * last row with its neighbours, and sets each point to the mean of its four neighbours (Jacobi).
 * Every EVERY steps the residual, the largest change of any point, is printed.
 *
 * The number of steps is fixed, and each point is computed in the same way whoever owns it, so the
 * final field, and the checksum over it (64-bit FNV-1a), is the same for any number of ranks.
 *
 * This file knows nothing of Meander.
 */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank, size;

/* The rows 0..n-1 are dealt out in blocks: where the block of `owner` begins. */
static int first_row(int n, int owner)
{
    return (int)((int64_t)n * owner / size);
}

static double start_value(int n, int row, int column)
{
    double x = (column + 1.0) / (n + 1.0) - 0.3, y = (row + 1.0) / (n + 1.0) - 0.6;
    return x * x + y * y < 0.01 ? 50.0 : 0.0;
}

/* Trades border rows with both neighbours. Row 0 and row rows+1 are the neighbours' copies. */
static void trade_borders(double *field, int rows, int width)
{
    int up = rank > 0 ? rank - 1 : MPI_PROC_NULL;
    int down = rank < size - 1 ? rank + 1 : MPI_PROC_NULL;
    MPI_Request requests[4];
    MPI_Irecv(field, width, MPI_DOUBLE, up, 1, MPI_COMM_WORLD, &requests[0]);
    MPI_Irecv(field + (size_t)(rows + 1) * width, width, MPI_DOUBLE, down, 2, MPI_COMM_WORLD, &requests[1]);
    MPI_Isend(field + width, width, MPI_DOUBLE, up, 2, MPI_COMM_WORLD, &requests[2]);
    MPI_Isend(field + (size_t)rows * width, width, MPI_DOUBLE, down, 1, MPI_COMM_WORLD, &requests[3]);
    MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
}

static void step(const double *old, double *new, int rows, int width)
{
    for (int i = 1; i <= rows; i++) {
        const double *above = old + (size_t)(i - 1) * width, *here = above + width, *below = here + width;
        double *out = new + (size_t)i * width;
        for (int j = 1; j < width - 1; j++)
            out[j] = 0.25 * ((above[j] + below[j]) + (here[j - 1] + here[j + 1]));
    }
}

static double largest_change(const double *old, const double *new, int rows, int width)
{
    double mine = 0, all = 0;
    for (size_t i = width; i < (size_t)(rows + 1) * width; i++)
        mine = fmax(mine, fabs(new[i] - old[i]));
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

static uint64_t fnv1a(const void *data, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char *p = data, *end = p + bytes; p < end; p++)
        hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

/* Gathers the field on rank 0 and gives the hash of it there. */
static uint64_t checksum(const double *field, int n, int rows, int width)
{
    double *whole = NULL;
    int *counts = malloc(size * sizeof *counts), *offsets = malloc(size * sizeof *offsets);
    for (int r = 0; r < size; r++) {
        offsets[r] = first_row(n, r) * width;
        counts[r] = first_row(n, r + 1) * width - offsets[r];
    }
    if (rank == 0)
        whole = malloc((size_t)n * width * sizeof *whole);
    MPI_Gatherv(field + width, rows * width, MPI_DOUBLE, whole, counts, offsets, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    uint64_t hash = rank == 0 ? fnv1a(whole, (size_t)n * width * sizeof *whole) : 0;
    free(whole);
    free(counts);
    free(offsets);
    return hash;
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 512;
    int steps = argc > 2 ? atoi(argv[2]) : 2000;
    int every = argc > 3 ? atoi(argv[3]) : 500;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (n < size || steps < 1 || every < 1) {
        if (rank == 0)
            fprintf(stderr, "usage: heat2d [N [STEPS [EVERY]]], N at least the number of ranks\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }

    int top = first_row(n, rank), rows = first_row(n, rank + 1) - top, width = n + 2;
    size_t points = (size_t)(rows + 2) * width;
    double *old = calloc(points, sizeof *old), *new = calloc(points, sizeof *new);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            old[(size_t)(i + 1) * width + j + 1] = start_value(n, top + i, j);
    if (rank == 0)
        for (int j = 0; j < width; j++)
            old[j] = new[j] = 100.0;

    double start = MPI_Wtime();
    for (int s = 1; s <= steps; s++) {
        trade_borders(old, rows, width);
        step(old, new, rows, width);
        if (s % every == 0) {
            double residual = largest_change(old, new, rows, width);
            if (rank == 0) {
                printf("step %6d of %d  residual %.3e  %5.1f s\n", s, steps, residual, MPI_Wtime() - start);
                fflush(stdout);
            }
        }
        double *swap = old;
        old = new;
        new = swap;
    }

    uint64_t hash = checksum(old, n, rows, width);
    if (rank == 0)
        printf("checksum=%016llx ranks=%d n=%d steps=%d\n", (unsigned long long)hash, size, n, steps);
    free(old);
    free(new);
    MPI_Finalize();
    return 0;
}
