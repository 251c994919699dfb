/* A function that is not provided says so, through the error handler. */
#include "check.h"

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    MPI_Request request;
    MPI_Win window;
    char text[MPI_MAX_ERROR_STRING];
    int len, code;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    code = MPI_Ibarrier(MPI_COMM_WORLD, &request);
    CHECK(code != MPI_SUCCESS);
    MPI_Error_string(code, text, &len);
    CHECK(strcmp(text, "MPI_Ibarrier is not yet provided by meander") == 0);
    code = MPI_Win_create(text, 1, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &window);
    CHECK(code != MPI_SUCCESS);
    MPI_Error_string(code, text, &len);
    CHECK(strcmp(text, "MPI_Win_create is not yet provided by meander") == 0);
    return end("missing");
}
