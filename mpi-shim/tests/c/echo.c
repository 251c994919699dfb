/* Rank 0 reads standard input and broadcasts the number of its bytes; everybody prints a line. */
#include "check.h"

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    long bytes = 0;
    if (rank == 0)
        while (getchar() != EOF)
            bytes++;
    MPI_Bcast(&bytes, 1, MPI_LONG, 0, MPI_COMM_WORLD);
    printf("rank %d heard of %ld bytes\n", rank, bytes);
    return end("echo");
}
