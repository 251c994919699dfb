/* Order, wildcards, probes, cancelled receives, synchronous sends, truncation. */
#include "check.h"

static void order_between_two(void)
{
    enum { N = 500 };
    if (rank == 0) {
        for (int i = 0; i < N; i++) {
            static char large[50000];
            int bytes = i >= 60 && i % 7 == 0 ? 50000 : i % 100;
            memcpy(large, &i, sizeof i);
            MPI_Send(large, bytes < 4 ? 4 : bytes, MPI_BYTE, 1, i % 3, MPI_COMM_WORLD);
        }
    } else if (rank == 1) {
        static char large[50000];
        int seen[3] = {0, 1, 2};
        /* Each tag in its own order, and with MPI_ANY_TAG the order they were sent in. */
        for (int i = 0; i < 60; i++) {
            int tag = i % 3 == 0 ? 2 : i % 3 - 1, number;
            MPI_Recv(large, sizeof large, MPI_BYTE, 0, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            memcpy(&number, large, sizeof number);
            EQUAL(number, seen[tag]);
            seen[tag] += 3;
        }
        for (int i = 60; i < N; i++) {
            MPI_Status status;
            int number;
            MPI_Recv(large, sizeof large, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD,
                     &status);
            memcpy(&number, large, sizeof number);
            EQUAL(number, i);
            EQUAL(status.MPI_TAG, i % 3);
            EQUAL(status.MPI_SOURCE, 0);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void posted_receives_in_order(void)
{
    enum { N = 40 };
    int values[N];
    MPI_Request requests[N];
    if (rank == 1) {
        for (int i = 0; i < N; i++)
            MPI_Irecv(&values[i], 1, MPI_INT, i % 2 ? 0 : MPI_ANY_SOURCE, i % 4 < 2 ? 9 : MPI_ANY_TAG,
                      MPI_COMM_WORLD, &requests[i]);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Waitall(N, requests, MPI_STATUSES_IGNORE);
        for (int i = 0; i < N; i++) {
            EQUAL(values[i], i);
            CHECK(requests[i] == MPI_REQUEST_NULL);
        }
    } else {
        MPI_Barrier(MPI_COMM_WORLD);
        for (int i = 0; rank == 0 && i < N; i++)
            MPI_Send(&i, 1, MPI_INT, 1, 9, MPI_COMM_WORLD);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void any_source(void)
{
    if (rank == 0) {
        int *seen = calloc(size, sizeof *seen);
        for (int i = 0; i < 20 * (size - 1); i++) {
            MPI_Status probed, status;
            int value, count;
            MPI_Probe(MPI_ANY_SOURCE, 5, MPI_COMM_WORLD, &probed);
            MPI_Get_count(&probed, MPI_INT, &count);
            EQUAL(count, 1);
            MPI_Recv(&value, 1, MPI_INT, probed.MPI_SOURCE, 5, MPI_COMM_WORLD, &status);
            EQUAL(status.MPI_SOURCE, probed.MPI_SOURCE);
            EQUAL(value, seen[status.MPI_SOURCE]++);
        }
        free(seen);
    } else {
        for (int i = 0; i < 20; i++)
            MPI_Send(&i, 1, MPI_INT, 0, 5, MPI_COMM_WORLD);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void iprobe_and_cancel(void)
{
    int flag, value = 0;
    MPI_Status status;
    MPI_Request request;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, &status);
    EQUAL(flag, 0);
    MPI_Irecv(&value, 1, MPI_INT, MPI_ANY_SOURCE, 77, MPI_COMM_WORLD, &request);
    MPI_Test(&request, &flag, &status);
    EQUAL(flag, 0);
    MPI_Cancel(&request);
    MPI_Wait(&request, &status);
    MPI_Test_cancelled(&status, &flag);
    EQUAL(flag, 1);
    CHECK(request == MPI_REQUEST_NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    /* The cancelled receive takes nothing. */
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    MPI_Isend(&rank, 1, MPI_INT, to, 77, MPI_COMM_WORLD, &request);
    do
        MPI_Iprobe(from, 77, MPI_COMM_WORLD, &flag, &status);
    while (!flag);
    EQUAL(status.MPI_SOURCE, from);
    MPI_Recv(&value, 1, MPI_INT, from, 77, MPI_COMM_WORLD, &status);
    EQUAL(value, from);
    MPI_Test_cancelled(&status, &flag);
    EQUAL(flag, 0);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void synchronous(void)
{
    for (int bytes = 0; bytes < 200000; bytes = bytes * 7 + 1) {
        char *buffer = calloc(bytes + 1, 1);
        if (rank == 0) {
            MPI_Request request;
            int flag;
            MPI_Issend(buffer, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD, &request);
            for (int i = 0; i < 100; i++) {
                MPI_Test(&request, &flag, MPI_STATUS_IGNORE);
                EQUAL(flag, 0);
            }
            MPI_Send(&bytes, 1, MPI_INT, 1, 2, MPI_COMM_WORLD);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            MPI_Ssend(buffer, bytes, MPI_BYTE, 1, 3, MPI_COMM_WORLD);
        } else if (rank == 1) {
            int value;
            MPI_Recv(&value, 1, MPI_INT, 0, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            EQUAL(value, bytes);
            MPI_Recv(buffer, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Recv(buffer, bytes, MPI_BYTE, 0, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
        free(buffer);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void truncation(void)
{
    int old_size = 0;
    MPI_Errhandler before;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before);
    CHECK(before == MPI_ERRORS_ARE_FATAL);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    static char large[100000], small[100];
    for (int bytes = 200; bytes <= 100000; bytes *= 500) {
        if (rank == 0) {
            memset(large, 'x', bytes);
            MPI_Send(large, bytes, MPI_BYTE, 1, 4, MPI_COMM_WORLD);
            MPI_Send(large, bytes, MPI_BYTE, 1, 4, MPI_COMM_WORLD);
        } else if (rank == 1) {
            MPI_Status status;
            memset(large, 0, sizeof large);
            int code = MPI_Recv(small, 100, MPI_BYTE, 0, 4, MPI_COMM_WORLD, &status), class;
            MPI_Error_class(code, &class);
            EQUAL(class, MPI_ERR_TRUNCATE);
            EQUAL(small[99], 'x');
            EQUAL(MPI_Recv(large, bytes, MPI_BYTE, 0, 4, MPI_COMM_WORLD, &status), MPI_SUCCESS);
            EQUAL(large[bytes - 1], 'x');
        }
    }
    EQUAL(MPI_Send(large, -1, MPI_BYTE, 0, 0, MPI_COMM_WORLD), MPI_ERR_COUNT);
    EQUAL(MPI_Send(large, 1, MPI_BYTE, size, 0, MPI_COMM_WORLD), MPI_ERR_RANK);
    EQUAL(MPI_Send(large, 1, MPI_BYTE, 0, -7, MPI_COMM_WORLD), MPI_ERR_TAG);
    EQUAL(MPI_Send(large, 1, MPI_DATATYPE_NULL, 0, 0, MPI_COMM_WORLD), MPI_ERR_TYPE);
    EQUAL(MPI_Comm_size(MPI_COMM_NULL, &old_size), MPI_ERR_COMM);
    EQUAL(MPI_Bcast(large, 1, MPI_BYTE, size, MPI_COMM_WORLD), MPI_ERR_ROOT);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, before);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void to_oneself_and_to_nobody(void)
{
    MPI_Request request;
    MPI_Status status;
    int out[2000], in[2000], count, flag;
    for (int i = 0; i < 2000; i++)
        out[i] = rank + i;
    MPI_Isend(out, 2000, MPI_INT, rank, 8, MPI_COMM_WORLD, &request);
    MPI_Recv(in, 2000, MPI_INT, MPI_ANY_SOURCE, 8, MPI_COMM_WORLD, &status);
    EQUAL(status.MPI_SOURCE, rank);
    EQUAL(in[1999], rank + 1999);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Issend(out, 10, MPI_INT, rank, 8, MPI_COMM_WORLD, &request);
    MPI_Test(&request, &flag, MPI_STATUS_IGNORE);
    EQUAL(flag, 0);
    MPI_Recv(in, 10, MPI_INT, rank, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    int value = 41;
    MPI_Sendrecv(&rank, 1, MPI_INT, rank, 3, &value, 1, MPI_INT, rank, 3, MPI_COMM_WORLD, &status);
    EQUAL(value, rank);
    MPI_Send(out, 5, MPI_INT, MPI_PROC_NULL, 8, MPI_COMM_WORLD);
    MPI_Recv(in, 5, MPI_INT, MPI_PROC_NULL, 8, MPI_COMM_WORLD, &status);
    EQUAL(status.MPI_SOURCE, MPI_PROC_NULL);
    EQUAL(status.MPI_TAG, MPI_ANY_TAG);
    MPI_Get_count(&status, MPI_INT, &count);
    EQUAL(count, 0);
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    value = rank;
    MPI_Sendrecv_replace(&value, 1, MPI_INT, to, 6, from, 6, MPI_COMM_WORLD, &status);
    EQUAL(value, from);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void many_requests(void)
{
    enum { N = 32 };
    int in[2 * N], out[N], done = 0, index, flag;
    MPI_Request requests[2 * N];
    MPI_Status statuses[2 * N];
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    for (int i = 0; i < N; i++) {
        out[i] = rank * 1000 + i;
        MPI_Irecv(&in[i], 1, MPI_INT, from, i, MPI_COMM_WORLD, &requests[i]);
    }
    for (int i = 0; i < N; i++)
        MPI_Isend(&out[i], 1, MPI_INT, to, N - 1 - i, MPI_COMM_WORLD, &requests[N + i]);
    for (int i = 0; i < N / 2; i++) {
        MPI_Waitany(2 * N, requests, &index, &statuses[0]);
        CHECK(index >= 0 && index < 2 * N && requests[index] == MPI_REQUEST_NULL);
        done++;
    }
    while (done < N) {
        MPI_Testany(2 * N, requests, &index, &flag, &statuses[0]);
        done += flag;
    }
    do
        MPI_Testall(2 * N, requests, &flag, statuses);
    while (!flag);
    for (int i = 0; i < N; i++)
        EQUAL(in[i], from * 1000 + N - 1 - i);
    MPI_Waitany(2 * N, requests, &index, &statuses[0]);
    EQUAL(index, MPI_UNDEFINED);
    MPI_Testany(2 * N, requests, &index, &flag, &statuses[0]);
    CHECK(flag && index == MPI_UNDEFINED);

    /* A freed send still arrives. */
    MPI_Isend(&out[3], 1, MPI_INT, to, 900, MPI_COMM_WORLD, &requests[0]);
    MPI_Request_free(&requests[0]);
    CHECK(requests[0] == MPI_REQUEST_NULL);
    MPI_Recv(&in[0], 1, MPI_INT, from, 900, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    EQUAL(in[0], from * 1000 + 3);
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    iprobe_and_cancel();
    order_between_two();
    posted_receives_in_order();
    any_source();
    synchronous();
    truncation();
    to_oneself_and_to_nobody();
    many_requests();
    return end("matching");
}
