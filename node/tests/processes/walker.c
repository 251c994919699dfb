/* A plain program that can be moved: counts, and leaves a trace of every step.
 *
 *   walker TRACE DATA STEPS CODE
 *
 * TRACE is appended to, one line a step: a step that ran twice or never shows. DATA is written by
 * offset. stdout and stderr get a line every tenth step; stdin is written to stdout, and to TRACE.in.
 * At the end it exits with CODE; with CODE < 0 it kills itself by signal -CODE. SIGUSR1 is counted
 * and told on stdout. A thread of its own computes all the time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long spins;
static volatile sig_atomic_t told;

static void *spin(void *unused) {
    for (;;) {
        spins++;
        if (spins % 100000 == 0)
            usleep(1000);
    }
    return unused;
}

static void on_signal(int number) {
    (void)number;
    told++;
}

static void echo_stdin(int copy) {
    static int ended;
    char buffer[65536];
    struct pollfd in = {0, POLLIN, 0};
    while (!ended && poll(&in, 1, 0) == 1) {
        ssize_t len = read(0, buffer, sizeof buffer);
        if (len <= 0) {
            ended = 1;
            printf("in: end\n");
        } else {
            fwrite(buffer, 1, (size_t)len, stdout);
            if (write(copy, buffer, (size_t)len) != len)
                _exit(103);
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 100;
    close_range(3, ~0U, 0); /* as launchers do */
    long steps = atol(argv[3]);
    int code = atoi(argv[4]);
    int trace = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0666);
    int data = open(argv[2], O_WRONLY | O_CREAT, 0666);
    char name[4096];
    snprintf(name, sizeof name, "%s.in", argv[1]);
    int copy = open(name, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (trace < 0 || data < 0 || copy < 0)
        return 101;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, spin, NULL);
    struct timespec pause = {0, 1000000};
    int seen = 0;
    for (long step = 0; step < steps; step++) {
        char line[64];
        int len = snprintf(line, sizeof line, "%08ld\n", step);
        if (write(trace, line, (size_t)len) != len || pwrite(data, line, (size_t)len, step * len) != len)
            return 102;
        if (step % 10 == 0) {
            printf("out %ld\n", step);
            fflush(stdout);
            fprintf(stderr, "err %ld\n", step);
        }
        if (seen != told) {
            seen = told;
            printf("told %d\n", seen);
            fflush(stdout);
        }
        echo_stdin(copy);
        nanosleep(&pause, NULL);
    }
    if (code < 0) {
        signal(-code, SIG_DFL);
        kill(getpid(), -code);
        // It may be another thread that takes it.
        for (;;)
            nanosleep(&pause, NULL);
    }
    return code;
}
