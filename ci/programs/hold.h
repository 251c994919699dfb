/*
 * Things that a process can hold and that can't move with it. Each call leaves one behind, open,
 * for the rest of the process's life.
 */
#ifndef HOLD_H
#define HOLD_H
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void hold_failed(const char *what)
{
    perror(what);
    exit(96);
}

/* A child that waits for its parent's end. */
static void hold_child(void)
{
    int ends[2];
    char byte;
    if (pipe(ends))
        hold_failed("pipe");
    if (fork() == 0) {
        close(ends[1]);
        (void)!read(ends[0], &byte, 1);
        _exit(0);
    }
    close(ends[0]);
}

/* A TCP connection of its own, to itself. */
static void hold_socket(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), caller = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&address, &length) ||
        connect(caller, (struct sockaddr *)&address, length) || accept(listener, NULL, NULL) < 0)
        hold_failed("socket");
}

/* A shared mapping of a file in /dev/shm that another process maps too. */
static void hold_shared(void)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/steady.%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 4096))
        hold_failed(path);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        hold_failed("mmap");
    strcpy(page, "shared");
    close(fd);
}

/* A file that exists on this node only. */
static void hold_local_file(void)
{
    if (open("/run/steady.local", O_RDWR | O_CREAT, 0600) < 0)
        hold_failed("/run/steady.local");
}

/* A device, by the name and numbers of a GPU's control node where one can be made. */
static void hold_device(void)
{
    if (open("/dev/nvidiactl", O_RDWR) < 0 && open("/dev/kmsg", O_RDONLY) < 0)
        hold_failed("/dev/nvidiactl");
}

static void hold(const char *what)
{
    if (!strcmp(what, "child")) hold_child();
    else if (!strcmp(what, "socket")) hold_socket();
    else if (!strcmp(what, "shared")) hold_shared();
    else if (!strcmp(what, "local-file")) hold_local_file();
    else if (!strcmp(what, "device")) hold_device();
    else {
        fprintf(stderr, "hold: nothing is called %s\n", what);
        exit(64);
    }
}
#endif
