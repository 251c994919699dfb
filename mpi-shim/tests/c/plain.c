/* Never calls MPI. */
#include <stdio.h>

int main(void)
{
    puts("no MPI here");
    return 0;
}
