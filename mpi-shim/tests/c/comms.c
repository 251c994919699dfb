/* Communicators and groups; a message in one is not seen in another. */
#include "check.h"

static int handled;

static void handler(MPI_Comm *comm, int *code, ...)
{
    (void)comm;
    handled = *code;
}

static void dup_keeps_messages_apart(void)
{
    MPI_Comm twin;
    int a = 1, b = 2, in = 0, result, to = (rank + 1) % size, from = (rank + size - 1) % size;
    MPI_Comm_dup(MPI_COMM_WORLD, &twin);
    MPI_Comm_compare(MPI_COMM_WORLD, twin, &result);
    EQUAL(result, MPI_CONGRUENT);
    MPI_Comm_compare(twin, twin, &result);
    EQUAL(result, MPI_IDENT);
    MPI_Request requests[2];
    MPI_Isend(&a, 1, MPI_INT, to, 0, MPI_COMM_WORLD, &requests[0]);
    MPI_Isend(&b, 1, MPI_INT, to, 0, twin, &requests[1]);
    MPI_Recv(&in, 1, MPI_INT, from, MPI_ANY_TAG, twin, MPI_STATUS_IGNORE);
    EQUAL(in, 2);
    MPI_Recv(&in, 1, MPI_INT, MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    EQUAL(in, 1);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    MPI_Comm_free(&twin);
    CHECK(twin == MPI_COMM_NULL);
}

static void split_reversed(void)
{
    MPI_Comm half;
    int r, s, sum, result;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
    MPI_Comm_rank(half, &r);
    MPI_Comm_size(half, &s);
    EQUAL(s, (size + 1 - rank % 2) / 2);
    EQUAL(r, s - 1 - rank / 2);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, half);
    int wanted = 0;
    for (int i = rank % 2; i < size; i += 2)
        wanted += i;
    EQUAL(sum, wanted);
    /* Again within the half, some ranks not at all. */
    MPI_Comm part;
    MPI_Comm_split(half, r == 0 ? MPI_UNDEFINED : 3, 0, &part);
    CHECK((part == MPI_COMM_NULL) == (r == 0));
    if (part != MPI_COMM_NULL) {
        int first = -1;
        MPI_Comm_rank(part, &first);
        EQUAL(first, r - 1);
        MPI_Barrier(part);
        MPI_Comm_compare(part, half, &result);
        EQUAL(result, MPI_UNEQUAL);
        MPI_Comm_free(&part);
    }
    MPI_Comm_free(&half);
}

static void groups(void)
{
    MPI_Group world, evens, odds, both, reversed, none;
    MPI_Comm comm;
    int list[64], n = 0, result, r;
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    for (int i = 0; i < size; i += 2)
        list[n++] = i;
    MPI_Group_incl(world, n, list, &evens);
    MPI_Group_excl(world, n, list, &odds);
    MPI_Group_rank(evens, &r);
    EQUAL(r, rank % 2 ? MPI_UNDEFINED : rank / 2);
    MPI_Group_union(evens, odds, &both);
    MPI_Group_compare(both, world, &result);
    EQUAL(result, size > 2 ? MPI_SIMILAR : MPI_IDENT);
    MPI_Group_intersection(evens, odds, &none);
    CHECK(none == MPI_GROUP_EMPTY);
    int range[1][3] = {{size - 1, 0, -1}};
    MPI_Group_range_incl(world, 1, range, &reversed);
    int one[2] = {0, MPI_PROC_NULL}, other[2];
    MPI_Group_translate_ranks(world, 2, one, reversed, other);
    EQUAL(other[0], size - 1);
    EQUAL(other[1], MPI_PROC_NULL);
    MPI_Group_translate_ranks(evens, 1, one, odds, other);
    EQUAL(other[0], MPI_UNDEFINED);

    MPI_Comm_create(MPI_COMM_WORLD, reversed, &comm);
    MPI_Comm_rank(comm, &r);
    EQUAL(r, size - 1 - rank);
    int value = rank;
    MPI_Bcast(&value, 1, MPI_INT, 0, comm);
    EQUAL(value, size - 1);
    MPI_Comm_compare(comm, MPI_COMM_WORLD, &result);
    EQUAL(result, size > 1 ? MPI_SIMILAR : MPI_CONGRUENT);
    MPI_Comm_free(&comm);
    MPI_Comm_create(MPI_COMM_WORLD, evens, &comm);
    CHECK((comm == MPI_COMM_NULL) == (rank % 2 == 1));
    if (comm != MPI_COMM_NULL) {
        MPI_Barrier(comm);
        MPI_Comm_free(&comm);
    }
    MPI_Group_free(&world);
    MPI_Group_free(&evens);
    if (odds != MPI_GROUP_EMPTY)
        MPI_Group_free(&odds);
    MPI_Group_free(&both);
    MPI_Group_free(&reversed);
    CHECK(world == MPI_GROUP_NULL);
}

static void environment(void)
{
    int flag, len, *bound, result;
    char name[MPI_MAX_PROCESSOR_NAME], text[MPI_MAX_ERROR_STRING];
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &flag);
    CHECK(flag && *bound >= 32767);
    int highest = *bound, in = 0;
    MPI_Sendrecv(&rank, 1, MPI_INT, rank, highest, &in, 1, MPI_INT, rank, highest, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    EQUAL(in, rank);
    MPI_Get_processor_name(name, &len);
    CHECK(len > 0 && (int)strlen(name) == len);
    MPI_Comm_get_name(MPI_COMM_WORLD, name, &len);
    CHECK(strcmp(name, "MPI_COMM_WORLD") == 0);
    MPI_Error_string(MPI_ERR_TRUNCATE, text, &len);
    CHECK(strstr(text, "truncated") != NULL);
    double before = MPI_Wtime();
    CHECK(MPI_Wtick() > 0 && MPI_Wtick() < 0.01);
    CHECK(MPI_Wtime() >= before);
    MPI_Initialized(&flag);
    CHECK(flag);
    MPI_Finalized(&flag);
    CHECK(!flag);
    MPI_Comm_compare(MPI_COMM_SELF, MPI_COMM_WORLD, &result);
    EQUAL(result, size == 1 ? MPI_CONGRUENT : MPI_UNEQUAL);
    /* The launcher's variables are the program's to read. */
    CHECK(getenv("OMPI_COMM_WORLD_LOCAL_RANK") != NULL);
    CHECK(getenv("OMPI_MCA_ess_singleton_isolated") == NULL);
    /* Both names are one function. */
    int r = -1;
    PMPI_Comm_rank(MPI_COMM_WORLD, &r);
    EQUAL(r, rank);
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "key", "value");
    MPI_Info_get(info, "key", 10, name, &flag);
    CHECK(flag && strcmp(name, "value") == 0);
    MPI_Info_free(&info);
}

static void own_handler(void)
{
    MPI_Errhandler own, got;
    MPI_Comm twin;
    int s;
    MPI_Comm_create_errhandler(handler, &own);
    MPI_Comm_dup(MPI_COMM_WORLD, &twin);
    MPI_Comm_set_errhandler(twin, own);
    MPI_Comm_get_errhandler(twin, &got);
    CHECK(got == own);
    EQUAL(MPI_Send(&s, 1, MPI_INT, size + 3, 0, twin), MPI_ERR_RANK);
    EQUAL(handled, MPI_ERR_RANK);
    MPI_Errhandler_free(&own);
    CHECK(own == MPI_ERRHANDLER_NULL);
    MPI_Comm_free(&twin);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    for (int i = 0; i < 5; i++) {
        dup_keeps_messages_apart();
        split_reversed();
        groups();
    }
    environment();
    own_handler();
    return end("comms");
}
