/* The floor of a cold ZBlk1: its records, one pread each, and nothing done with them.
 *
 *   preads DATABASE POSITIONS     positions: one line per block, "pos:len pos:len ..."
 *
 * Prints the microseconds of each block: into one buffer (hot), and one record behind the other (apart). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RECORDS_MAX = 4096, ROOM = 16 << 20 };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    static long long pos[RECORDS_MAX];
    static size_t len[RECORDS_MAX];
    char *line = NULL, *room = malloc(ROOM);
    size_t capacity = 0;
    if (argc != 3 || !room)
        return 2;
    int db = open(argv[1], O_RDONLY);
    FILE *list = fopen(argv[2], "r");
    if (db < 0 || !list)
        return perror("open"), 1;
    memset(room, 1, ROOM);
    for (int block = 0; getline(&line, &capacity, list) > 0; block++) {
        int n = 0, apart = block & 1;
        for (char *word = strtok(line, " \n"); word && n < RECORDS_MAX; word = strtok(NULL, " \n"), n++)
            if (sscanf(word, "%lld:%zu", &pos[n], &len[n]) != 2)
                return fprintf(stderr, "bad position %s\n", word), 1;
        char *to = room;
        double start = now_us();
        for (int i = 0; i < n; i++) {
            if (to + len[i] > room + ROOM)
                to = room;
            if (pread(db, to, len[i], pos[i]) != (ssize_t)len[i])
                return perror("pread"), 1;
            if (apart)
                to += len[i];
        }
        printf("%s %.3f\n", apart ? "apart" : "hot", now_us() - start);
    }
    return 0;
}
