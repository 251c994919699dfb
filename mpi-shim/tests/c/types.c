/* Derived datatypes on either side, against plain ones on the other. */
#include "check.h"

#include <stddef.h>

struct particle { char kind; double at[3]; int id; short pad; };

static int to, from;

static void vector_to_plain(int blocks)
{
    MPI_Datatype column;
    int wide = 7, *matrix = malloc((blocks * wide + 1) * sizeof *matrix);
    int *plain = malloc((2 * blocks + 1) * sizeof *plain);
    MPI_Status status;
    MPI_Type_vector(blocks, 2, wide, MPI_INT, &column);
    MPI_Type_commit(&column);
    for (int i = 0; i < blocks * wide; i++)
        matrix[i] = rank * 1000000 + i;
    MPI_Sendrecv(matrix + 1, 1, column, to, 0, plain, 2 * blocks, MPI_INT, from, 0, MPI_COMM_WORLD,
                 &status);
    for (int i = 0; i < blocks; i++) {
        EQUAL(plain[2 * i], from * 1000000 + i * wide + 1);
        EQUAL(plain[2 * i + 1], from * 1000000 + i * wide + 2);
    }
    memset(matrix, 0xff, blocks * wide * sizeof *matrix);
    MPI_Sendrecv(plain, 2 * blocks, MPI_INT, from, 1, matrix + 1, 1, column, to, 1, MPI_COMM_WORLD,
                 &status);
    for (int i = 0; i < blocks * wide; i++) {
        int within = i % wide, back = rank * 1000000 + i;
        EQUAL(matrix[i], within == 1 || within == 2 ? back : -1);
    }
    MPI_Type_free(&column);
    CHECK(column == MPI_DATATYPE_NULL);
    free(matrix);
    free(plain);
}

/* Side by side, yet not in order: must not pass for contiguous. */
static void permuted(void)
{
    int lengths[3] = {1, 1, 1}, places[3] = {2, 0, 1}, out[6], in[6];
    MPI_Datatype type;
    MPI_Type_indexed(3, lengths, places, MPI_INT, &type);
    MPI_Type_commit(&type);
    for (int i = 0; i < 6; i++)
        out[i] = i;
    MPI_Sendrecv(out, 2, type, to, 0, in, 6, MPI_INT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    int wanted[6] = {2, 0, 1, 5, 3, 4};
    for (int i = 0; i < 6; i++)
        EQUAL(in[i], wanted[i]);
    MPI_Type_free(&type);
}

static void structures(int count)
{
    int lengths[3] = {1, 3, 1};
    MPI_Aint places[3] = {offsetof(struct particle, kind), offsetof(struct particle, at),
                          offsetof(struct particle, id)};
    MPI_Datatype types[3] = {MPI_CHAR, MPI_DOUBLE, MPI_INT}, bare, type;
    MPI_Type_create_struct(3, lengths, places, types, &bare);
    MPI_Type_create_resized(bare, 0, sizeof(struct particle), &type);
    MPI_Type_commit(&type);
    struct particle *out = calloc(count + 1, sizeof *out), *in = calloc(count + 1, sizeof *in);
    for (int i = 0; i < count; i++) {
        out[i] = (struct particle){(char)i, {i, i * 2.0, rank}, rank + i, 9};
        in[i].pad = 77;
    }
    MPI_Status status;
    int got;
    MPI_Sendrecv(out, count, type, to, 0, in, count + 1, type, from, 0, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, type, &got);
    EQUAL(got, count);
    MPI_Get_elements(&status, type, &got);
    EQUAL(got, 5 * count);
    for (int i = 0; i < count; i++) {
        EQUAL(in[i].kind, (char)i);
        CHECK(in[i].at[1] == i * 2.0 && in[i].at[2] == from);
        EQUAL(in[i].id, from + i);
        EQUAL(in[i].pad, 77);
    }
    MPI_Bcast(out, count, type, size - 1, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++)
        EQUAL(out[i].id, size - 1 + i);
    MPI_Type_free(&type);
    MPI_Type_free(&bare);
    free(out);
    free(in);
}

/* Fewer elements than an item has: the rest of it stays. */
static void part_of_an_item(void)
{
    MPI_Datatype spread;
    int out[3] = {10, 11, 12}, in[8], got;
    MPI_Status status;
    MPI_Type_vector(2, 1, 2, MPI_INT, &spread);
    MPI_Type_commit(&spread);
    for (int i = 0; i < 8; i++)
        in[i] = -i;
    MPI_Sendrecv(out, 3, MPI_INT, to, 0, in, 2, spread, from, 0, MPI_COMM_WORLD, &status);
    /* Extent is 3: items at 0,2 and 3,5. */
    EQUAL(in[0], 10);
    EQUAL(in[1], -1);
    EQUAL(in[2], 11);
    EQUAL(in[3], 12);
    EQUAL(in[4], -4);
    EQUAL(in[5], -5);
    MPI_Get_count(&status, spread, &got);
    EQUAL(got, MPI_UNDEFINED);
    MPI_Get_elements(&status, spread, &got);
    EQUAL(got, 3);
    MPI_Type_free(&spread);
}

static void gathered_columns(void)
{
    /* Every rank's column of a matrix at the root: an item's extent is one element. */
    int rows = 50, *matrix = malloc(rows * size * sizeof *matrix), *mine = malloc(rows * sizeof *mine);
    MPI_Datatype long_column, column;
    MPI_Type_vector(rows, 1, size, MPI_INT, &long_column);
    MPI_Type_create_resized(long_column, 0, sizeof(int), &column);
    MPI_Type_commit(&column);
    for (int i = 0; i < rows; i++)
        mine[i] = rank * 100 + i;
    MPI_Gather(mine, rows, MPI_INT, matrix, 1, column, 0, MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < rows; i++)
        for (int r = 0; r < size; r++)
            EQUAL(matrix[i * size + r], r * 100 + i);
    MPI_Scatter(matrix, 1, column, mine, rows, MPI_INT, 0, MPI_COMM_WORLD);
    for (int i = 0; i < rows; i++)
        EQUAL(mine[i], rank * 100 + i);
    memset(matrix, 0, rows * size * sizeof *matrix);
    MPI_Allgather(mine, rows, MPI_INT, matrix, 1, column, MPI_COMM_WORLD);
    for (int i = 0; i < rows; i++)
        for (int r = 0; r < size; r++)
            EQUAL(matrix[i * size + r], r * 100 + i);
    MPI_Type_free(&column);
    MPI_Type_free(&long_column);
    free(matrix);
    free(mine);
}

static void packed_and_absolute(void)
{
    char packed[100];
    int position = 0, room, value = rank + 5, in = 0;
    double real = rank / 4.0, real_in = 0;
    MPI_Pack_size(1, MPI_INT, MPI_COMM_WORLD, &room);
    CHECK(room >= 4);
    MPI_Pack(&value, 1, MPI_INT, packed, sizeof packed, &position, MPI_COMM_WORLD);
    MPI_Pack(&real, 1, MPI_DOUBLE, packed, sizeof packed, &position, MPI_COMM_WORLD);
    char arrived[100];
    MPI_Sendrecv(packed, position, MPI_PACKED, to, 0, arrived, sizeof arrived, MPI_PACKED, from, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    position = 0;
    MPI_Unpack(arrived, sizeof arrived, &position, &in, 1, MPI_INT, MPI_COMM_WORLD);
    MPI_Unpack(arrived, sizeof arrived, &position, &real_in, 1, MPI_DOUBLE, MPI_COMM_WORLD);
    EQUAL(in, from + 5);
    CHECK(real_in == from / 4.0);

    int lengths[2] = {1, 1};
    MPI_Aint places[2];
    MPI_Datatype types[2] = {MPI_INT, MPI_DOUBLE}, type;
    MPI_Get_address(&in, &places[0]);
    MPI_Get_address(&real_in, &places[1]);
    MPI_Type_create_struct(2, lengths, places, types, &type);
    MPI_Type_commit(&type);
    in = rank;
    real_in = rank * 2.5;
    if (rank % 2 == 0) {
        if (rank + 1 < size)
            MPI_Send(MPI_BOTTOM, 1, type, rank + 1, 1, MPI_COMM_WORLD);
    } else {
        MPI_Recv(MPI_BOTTOM, 1, type, rank - 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        EQUAL(in, rank - 1);
        CHECK(real_in == (rank - 1) * 2.5);
    }
    MPI_Type_free(&type);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    to = (rank + 1) % size;
    from = (rank + size - 1) % size;
    vector_to_plain(3);
    vector_to_plain(20000); /* past the eager limit */
    for (int i = 0; i < 20; i++)
        permuted();
    structures(1);
    structures(17);
    structures(9000);
    part_of_an_item();
    gathered_columns();
    packed_and_absolute();
    return end("types");
}
