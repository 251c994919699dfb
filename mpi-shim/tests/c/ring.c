/* A token around a ring, small and large. */
#include "check.h"

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    int next_rank = (rank + 1) % size, previous = (rank + size - 1) % size;
    for (int bytes = 1; bytes <= 4 << 20; bytes *= 8) {
        unsigned char *token = malloc(bytes);
        MPI_Status status;
        int count;
        if (rank == 0) {
            for (int i = 0; i < bytes; i++)
                token[i] = (unsigned char)(i * 7 + bytes);
            if (size > 1) {
                MPI_Send(token, bytes, MPI_BYTE, next_rank, bytes, MPI_COMM_WORLD);
                memset(token, 0, bytes);
                MPI_Recv(token, bytes, MPI_BYTE, previous, bytes, MPI_COMM_WORLD, &status);
            }
        } else {
            MPI_Recv(token, bytes, MPI_BYTE, previous, bytes, MPI_COMM_WORLD, &status);
            EQUAL(status.MPI_SOURCE, previous);
            EQUAL(status.MPI_TAG, bytes);
            MPI_Get_count(&status, MPI_BYTE, &count);
            EQUAL(count, bytes);
            MPI_Send(token, bytes, MPI_BYTE, next_rank, bytes, MPI_COMM_WORLD);
        }
        for (int i = 0; i < bytes; i++)
            EQUAL(token[i], (unsigned char)(i * 7 + bytes));
        free(token);
    }
    return end("ring");
}
