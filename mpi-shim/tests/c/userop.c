/* Operations of the program's own, one of which does not commute: 2x2 matrices. */
#include "check.h"

typedef struct { unsigned m[4]; } matrix;

static void multiply(void *in, void *inout, int *len, MPI_Datatype *type)
{
    matrix *left = in, *right = inout;
    (void)type;
    for (int i = 0; i < *len; i++) {
        matrix a = left[i], b = right[i];
        right[i].m[0] = a.m[0] * b.m[0] + a.m[1] * b.m[2];
        right[i].m[1] = a.m[0] * b.m[1] + a.m[1] * b.m[3];
        right[i].m[2] = a.m[2] * b.m[0] + a.m[3] * b.m[2];
        right[i].m[3] = a.m[2] * b.m[1] + a.m[3] * b.m[3];
    }
}

static void most(void *in, void *inout, int *len, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *len; i++)
        if (((int *)in)[i] > ((int *)inout)[i])
            ((int *)inout)[i] = ((int *)in)[i];
}

static matrix given(int r, int i)
{
    return (matrix){{(unsigned)(r + 2), (unsigned)i, (unsigned)(3 * r + 1), (unsigned)(i + r)}};
}

static matrix product(int last, int i)
{
    matrix all = given(0, i);
    for (int r = 1; r <= last; r++) {
        matrix one = given(r, i);
        int len = 1;
        multiply(&all, &one, &len, NULL);
        all = one;
    }
    return all;
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    enum { N = 300 };
    static matrix mine[64 * N], all[64 * N];
    MPI_Datatype type;
    MPI_Op times, max;
    MPI_Type_contiguous(4, MPI_UNSIGNED, &type);
    MPI_Type_commit(&type);
    MPI_Op_create(multiply, 0, &times);
    MPI_Op_create(most, 1, &max);
    for (int i = 0; i < N; i++)
        mine[i] = given(rank, i);
    for (int root = 0; root < size; root++) {
        MPI_Reduce(mine, all, N, type, times, root, MPI_COMM_WORLD);
        for (int i = 0; rank == root && i < N; i++) {
            matrix wanted = product(size - 1, i);
            CHECK(memcmp(&all[i], &wanted, sizeof wanted) == 0);
        }
    }
    MPI_Allreduce(mine, all, N, type, times, MPI_COMM_WORLD);
    for (int i = 0; i < N; i++) {
        matrix wanted = product(size - 1, i);
        CHECK(memcmp(&all[i], &wanted, sizeof wanted) == 0);
    }
    MPI_Scan(mine, all, N, type, times, MPI_COMM_WORLD);
    for (int i = 0; i < N; i++) {
        matrix wanted = product(rank, i);
        CHECK(memcmp(&all[i], &wanted, sizeof wanted) == 0);
    }
    for (int i = 0; i < N * size; i++)
        mine[i] = given(rank, i);
    MPI_Reduce_scatter_block(mine, all, N, type, times, MPI_COMM_WORLD);
    for (int i = 0; i < N; i++) {
        matrix wanted = product(size - 1, rank * N + i);
        CHECK(memcmp(&all[i], &wanted, sizeof wanted) == 0);
    }
    int value = (rank * 5) % 7, greatest = -1, wanted = 0;
    for (int r = 0; r < size; r++)
        wanted = (r * 5) % 7 > wanted ? (r * 5) % 7 : wanted;
    MPI_Allreduce(&value, &greatest, 1, MPI_INT, max, MPI_COMM_WORLD);
    EQUAL(greatest, wanted);
    MPI_Op_free(&times);
    MPI_Op_free(&max);
    MPI_Type_free(&type);
    return end("userop");
}
