/* Every collective with sizes, types and roots drawn by seed, against what it should give. */
#include "check.h"

enum { ROUNDS = 60, MAX = 3000 };

/* What rank r gives as its i-th item. */
static int item(unsigned round, int r, int i)
{
    return (int)(round * 7919u + (unsigned)r * 104729u + (unsigned)i * 31u) % 100003;
}

static void barrier_and_bcast(unsigned round, int count, int root)
{
    int *data = malloc((count + 1) * sizeof *data);
    double *reals = malloc((count + 1) * sizeof *reals);
    for (int i = 0; i < count; i++) {
        data[i] = rank == root ? item(round, root, i) : -1;
        reals[i] = rank == root ? item(round, root, i) / 8.0 : -1;
    }
    MPI_Bcast(data, count, MPI_INT, root, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Bcast(reals, count, MPI_DOUBLE, root, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        EQUAL(data[i], item(round, root, i));
        CHECK(reals[i] == item(round, root, i) / 8.0);
    }
    free(data);
    free(reals);
}

static void reductions(unsigned round, int count, int root)
{
    int *mine = malloc((count + 1) * sizeof *mine), *all = malloc((count + 1) * sizeof *all);
    for (int in_place = 0; in_place < 2; in_place++) {
        for (int i = 0; i < count; i++) {
            mine[i] = item(round, rank, i);
            all[i] = in_place ? mine[i] : -5;
        }
        MPI_Reduce(in_place && rank == root ? MPI_IN_PLACE : mine, all, count, MPI_INT, MPI_SUM,
                   root, MPI_COMM_WORLD);
        for (int i = 0; rank == root && i < count; i++) {
            int sum = 0;
            for (int r = 0; r < size; r++)
                sum += item(round, r, i);
            EQUAL(all[i], sum);
        }
        for (int i = 0; i < count; i++)
            all[i] = in_place ? mine[i] : -5;
        MPI_Allreduce(in_place ? MPI_IN_PLACE : mine, all, count, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
        for (int i = 0; i < count; i++) {
            int max = -1;
            for (int r = 0; r < size; r++)
                max = item(round, r, i) > max ? item(round, r, i) : max;
            EQUAL(all[i], max);
        }
        for (int i = 0; i < count; i++)
            all[i] = in_place ? mine[i] : -5;
        MPI_Scan(in_place ? MPI_IN_PLACE : mine, all, count, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        for (int i = 0; i < count; i++) {
            int sum = 0;
            for (int r = 0; r <= rank; r++)
                sum += item(round, r, i);
            EQUAL(all[i], sum);
        }
        for (int i = 0; i < count; i++)
            all[i] = in_place ? mine[i] : -5;
        MPI_Exscan(in_place ? MPI_IN_PLACE : mine, all, count, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        for (int i = 0; rank > 0 && i < count; i++) {
            int sum = 0;
            for (int r = 0; r < rank; r++)
                sum += item(round, r, i);
            EQUAL(all[i], sum);
        }
    }
    struct { double value; int where; } pair = {(double)((rank * 37 + (int)round) % 11), rank}, least;
    MPI_Allreduce(&pair, &least, 1, MPI_DOUBLE_INT, MPI_MINLOC, MPI_COMM_WORLD);
    for (int r = 0; r < size; r++) {
        double value = (double)((r * 37 + (int)round) % 11);
        CHECK(least.value < value || (least.value == value && least.where <= r));
    }
    free(mine);
    free(all);
}

static void reduce_scatters(unsigned round, int count)
{
    int *counts = malloc(size * sizeof *counts), total = 0, before = 0;
    for (int r = 0; r < size; r++) {
        counts[r] = (count + r * 13) % 97;
        if (r < rank)
            before += counts[r];
        total += counts[r];
    }
    int *mine = malloc((total + size * count + 1) * sizeof *mine);
    int *part = malloc((total + count + 1) * sizeof *part);
    for (int i = 0; i < total; i++)
        mine[i] = item(round, rank, i);
    MPI_Reduce_scatter(mine, part, counts, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < counts[rank]; i++) {
        int sum = 0;
        for (int r = 0; r < size; r++)
            sum += item(round, r, before + i);
        EQUAL(part[i], sum);
    }
    for (int i = 0; i < size * count; i++)
        mine[i] = item(round, rank, i);
    MPI_Reduce_scatter_block(MPI_IN_PLACE, mine, count, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        int sum = 0;
        for (int r = 0; r < size; r++)
            sum += item(round, r, rank * count + i);
        EQUAL(mine[i], sum);
    }
    free(counts);
    free(mine);
    free(part);
}

static void gathers(unsigned round, int count, int root)
{
    int *mine = malloc((count + 200) * sizeof *mine);
    int *all = malloc((size * (count + 210) + 1) * sizeof *all);
    int *counts = malloc(size * sizeof *counts), *starts = malloc(size * sizeof *starts);
    for (int i = 0; i < count + 200; i++)
        mine[i] = item(round, rank, i);

    MPI_Gather(mine, count, MPI_INT, all, count, MPI_INT, root, MPI_COMM_WORLD);
    for (int r = 0; rank == root && r < size; r++)
        for (int i = 0; i < count; i++)
            EQUAL(all[r * count + i], item(round, r, i));

    memset(all, 0xee, size * (count + 210) * sizeof *all);
    memcpy(all + rank * count, mine, count * sizeof *all);
    MPI_Allgather(round % 2 ? MPI_IN_PLACE : (void *)mine, count, MPI_INT, all, count, MPI_INT,
                  MPI_COMM_WORLD);
    for (int r = 0; r < size; r++)
        for (int i = 0; i < count; i++)
            EQUAL(all[r * count + i], item(round, r, i));

    int end = 0;
    for (int r = size - 1; r >= 0; r--) {
        counts[r] = (count * (r + 1) + r) % (count + 200);
        starts[r] = end + r % 3;
        end = starts[r] + counts[r];
    }
    memset(all, 0xee, size * (count + 210) * sizeof *all);
    MPI_Gatherv(mine, counts[rank], MPI_INT, all, counts, starts, MPI_INT, root, MPI_COMM_WORLD);
    for (int r = 0; rank == root && r < size; r++)
        for (int i = 0; i < counts[r]; i++)
            EQUAL(all[starts[r] + i], item(round, r, i));

    memset(all, 0xee, size * (count + 210) * sizeof *all);
    MPI_Allgatherv(mine, counts[rank], MPI_INT, all, counts, starts, MPI_INT, MPI_COMM_WORLD);
    for (int r = 0; r < size; r++)
        for (int i = 0; i < counts[r]; i++)
            EQUAL(all[starts[r] + i], item(round, r, i));

    for (int r = 0; r < size; r++)
        for (int i = 0; i < counts[r]; i++)
            all[starts[r] + i] = item(round, root * size + r, i);
    memset(mine, 0xee, (count + 200) * sizeof *mine);
    MPI_Scatterv(all, counts, starts, MPI_INT, mine, counts[rank], MPI_INT, root, MPI_COMM_WORLD);
    for (int i = 0; i < counts[rank]; i++)
        EQUAL(mine[i], item(round, root * size + rank, i));

    for (int r = 0; r < size; r++)
        for (int i = 0; i < count; i++)
            all[r * count + i] = item(round, root * size + r, i);
    memset(mine, 0xee, (count + 200) * sizeof *mine);
    int in_place = rank == root && round % 2;
    MPI_Scatter(all, count, MPI_INT, in_place ? MPI_IN_PLACE : mine, count, MPI_INT, root,
                MPI_COMM_WORLD);
    for (int i = 0; !in_place && i < count; i++)
        EQUAL(mine[i], item(round, root * size + rank, i));
    free(mine);
    free(all);
    free(counts);
    free(starts);
}

static void exchanges(unsigned round, int count)
{
    int most = count + 50;
    short *out = malloc((size * most + 1) * sizeof *out), *in = malloc((size * most + 1) * sizeof *in);
    int *ints = malloc(6 * size * sizeof *ints);
    int *outs = ints, *out_at = ints + size, *ins = ints + 2 * size, *in_at = ints + 3 * size;
    int *out_bytes = ints + 4 * size, *in_bytes = ints + 5 * size;
    MPI_Datatype *types = malloc(size * sizeof *types);

    for (int r = 0; r < size; r++)
        for (int i = 0; i < count; i++)
            out[r * count + i] = in[r * count + i] = (short)item(round, rank * size + r, i);
    MPI_Alltoall(round % 2 ? MPI_IN_PLACE : (void *)out, count, MPI_SHORT, in, count, MPI_SHORT,
                 MPI_COMM_WORLD);
    for (int r = 0; r < size; r++)
        for (int i = 0; i < count; i++)
            EQUAL(in[r * count + i], (short)item(round, r * size + rank, i));

    for (int r = 0; r < size; r++) {
        outs[r] = (count + 3 * rank + 5 * r) % most;
        ins[r] = (count + 3 * r + 5 * rank) % most;
        out_at[r] = in_at[r] = r * most;
        out_bytes[r] = in_bytes[r] = r * most * (int)sizeof *out;
        types[r] = MPI_SHORT;
        for (int i = 0; i < outs[r]; i++)
            out[out_at[r] + i] = (short)item(round, rank * size + r, i);
    }
    for (int w = 0; w < 2; w++) {
        memset(in, 0xee, size * most * sizeof *in);
        if (w)
            MPI_Alltoallw(out, outs, out_bytes, types, in, ins, in_bytes, types, MPI_COMM_WORLD);
        else
            MPI_Alltoallv(out, outs, out_at, MPI_SHORT, in, ins, in_at, MPI_SHORT, MPI_COMM_WORLD);
        for (int r = 0; r < size; r++)
            for (int i = 0; i < ins[r]; i++)
                EQUAL(in[in_at[r] + i], (short)item(round, r * size + rank, i));
    }
    free(out);
    free(in);
    free(ints);
    free(types);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    unsigned state = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        int count = round % 5 == 0 ? (int)(round % 3) : (int)(next(&state) % MAX);
        if (round == 7)
            count = 40000; /* past the eager limit */
        int root = (int)(next(&state) % (unsigned)size);
        barrier_and_bcast(round, count, root);
        reductions(round, count, root);
        if (round == 11)
            reductions(round, 300007, root); /* in parts, of no equal lengths */
        reduce_scatters(round, count);
        gathers(round, count, root);
        exchanges(round, count);
    }
    return end("collectives");
}
