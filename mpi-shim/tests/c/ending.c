/* ending HOW CODE WHO: how a job ends when rank WHO does not finalise.
 *   abort    calls MPI_Abort(CODE)
 *   exit     calls exit(CODE)
 *   _exit    calls _exit(CODE), as a fork that is refused its exec also does first
 *   handler  calls _exit(CODE) in a signal handler
 *   return   returns CODE from main
 *   missing  calls a function that is not provided
 * The others are blocked in a receive, in a barrier, in a probe, or compute without end. */
#include "check.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int code;

static void leave(int signal)
{
    (void)signal;
    _exit(code);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    const char *how = argc > 1 ? argv[1] : "abort";
    code = argc > 2 ? atoi(argv[2]) : 0;
    int who = argc > 3 ? atoi(argv[3]) : 0;
    printf("before the end\n");
    if (rank == who) {
        MPI_Request request;
        if (strcmp(how, "abort") == 0)
            MPI_Abort(MPI_COMM_WORLD, code);
        else if (strcmp(how, "exit") == 0)
            exit(code);
        else if (strcmp(how, "_exit") == 0) {
            pid_t child = fork();
            if (child == 0)
                _exit(code);
            waitpid(child, NULL, 0);
            _exit(code);
        } else if (strcmp(how, "handler") == 0) {
            signal(SIGALRM, leave);
            alarm(1);
            MPI_Barrier(MPI_COMM_WORLD);
        } else if (strcmp(how, "missing") == 0)
            MPI_Ibarrier(MPI_COMM_WORLD, &request);
        return code;
    }
    int value;
    if (rank % 4 == 0)
        MPI_Barrier(MPI_COMM_WORLD);
    else if (rank % 4 == 1)
        for (volatile unsigned long i = 0;; i++)
            ;
    else if (rank % 4 == 2)
        MPI_Recv(&value, 1, MPI_INT, MPI_ANY_SOURCE, 12345, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    else
        MPI_Probe(who, 999, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return 0;
}
