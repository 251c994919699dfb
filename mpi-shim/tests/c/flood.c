/* 300,000 messages nobody has asked for, then a barrier; then all of them, in order. */
#include "check.h"

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    int n = argc > 1 ? atoi(argv[1]) : 300000;
    static int message[256];
    if (rank > 0)
        for (int i = 0; i < n; i++) {
            message[0] = i;
            message[255] = rank;
            MPI_Send(message, 256, MPI_INT, 0, i % 5, MPI_COMM_WORLD);
        }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        for (int r = 1; r < size; r++)
            for (int i = 0; i < n; i++) {
                MPI_Recv(message, 256, MPI_INT, r, i % 3 ? i % 5 : MPI_ANY_TAG, MPI_COMM_WORLD,
                         MPI_STATUS_IGNORE);
                EQUAL(message[0], i);
                EQUAL(message[255], r);
            }
    return end("flood");
}
