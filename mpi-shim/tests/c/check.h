/* Checked results for small test programs: the first that is wrong ends the job. */
#ifndef CHECK_H
#define CHECK_H

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank, size;

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "rank %d: %s:%d: not true: %s\n", rank, __FILE__,  \
                    __LINE__, #condition);                                     \
            MPI_Abort(MPI_COMM_WORLD, 99);                                     \
        }                                                                      \
    } while (0)

#define EQUAL(got, wanted)                                                     \
    do {                                                                       \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);      \
        if (got_ != wanted_) {                                                 \
            fprintf(stderr, "rank %d: %s:%d: %s is %lld, not %lld\n", rank,    \
                    __FILE__, __LINE__, #got, got_, wanted_);                  \
            MPI_Abort(MPI_COMM_WORLD, 99);                                     \
        }                                                                      \
    } while (0)

static inline void begin(int *argc, char ***argv)
{
    MPI_Init(argc, argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
}

/* All ranks got here: rank 0 says so, which is what the tests look for. */
static inline int end(const char *name)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        printf("%s: ok on %d\n", name, size);
        fflush(stdout);
    }
    MPI_Finalize();
    return 0;
}

/* The same numbers at every rank that gives the same seed. */
static inline unsigned next(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

#endif
