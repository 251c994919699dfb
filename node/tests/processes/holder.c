/* Holds one thing that can't be moved: `holder WHAT PATH`, says "ready" and waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int hold(const char *what, const char *path) {
    if (!strcmp(what, "nothing"))
        return 0;
    if (!strcmp(what, "socket"))
        return listen(socket(AF_INET, SOCK_STREAM, 0), 1);
    if (!strcmp(what, "inotify"))
        return inotify_add_watch(inotify_init(), "/", IN_CREATE) < 0;
    if (!strcmp(what, "device"))
        return open(path, O_RDWR) < 0;
    if (!strcmp(what, "file"))
        return open(path, O_RDWR | O_CREAT, 0600) < 0;
    if (!strcmp(what, "directory"))
        return chdir(path);
    if (!strcmp(what, "lock"))
        return flock(open(path, O_RDWR | O_CREAT, 0600), LOCK_EX);
    if (!strcmp(what, "segment")) {
        int fd = open(path, O_RDWR | O_CREAT, 0600);
        if (ftruncate(fd, 4096))
            return 1;
        return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED;
    }
    if (!strcmp(what, "sysv")) {
        int id = shmget(IPC_PRIVATE, 4096, 0600);
        void *at = shmat(id, NULL, 0);
        shmctl(id, IPC_RMID, NULL);
        return at == (void *)-1;
    }
    if (!strcmp(what, "pipe")) {
        /* The other end is a child's, which is an orphan by the time it is looked at. */
        int ends[2];
        if (pipe(ends))
            return 1;
        if (fork() == 0) {
            close(ends[0]);
            if (fork() == 0) {
                sleep(100);
            }
            _exit(0);
        }
        close(ends[1]);
        sleep(1);
        return 0;
    }
    if (!strcmp(what, "child")) {
        if (fork() == 0) {
            sleep(100);
            _exit(0);
        }
        return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    close_range(3, ~0U, 0);
    if (argc != 3 || hold(argv[1], argv[2])) {
        perror("holder");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    sleep(60);
    return 0;
}
