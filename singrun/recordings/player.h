/* What the parts of the player share; player.c says what it is. */
#ifndef PLAYER_H
#define PLAYER_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux, include/uapi/asm-generic/unistd.h: the same on every architecture. */
enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432 };
enum { CLOSE_RANGE = 436, OPENAT2 = 437, MOUNT_SETATTR = 442, IN_ROOT = 0x10 };
enum { STATUS = 255, LARGEST = 1 << 16, FIRST_WORD = 3 };

extern char **words;        /* PYTHON HERE MAIN WORD... */
extern int word_count;      /* of WORD... before the program, which the recording is of */
extern char *next_field;    /* of the recording; its end: */
extern char *end;
extern int image;           /* its file, locked */
extern int is_begun;        /* from here on there is no way back */
extern int is_recordable;   /* whether Python may record this launch */

_Noreturn void hand_over(void);
void need(int is_so);
void restore_signals(void);
_Noreturn void give_up(const char *what, const char *why);
long must(long result, const char *what);
char *field(void);
long number(void);
int fields_of(const char *letter);
const char *value_of(const char *variable);

/* facts.c */
enum { MOUNTS, USER, OWNER };
extern int namespaces[3]; /* of a set of ranks: opened by have_set() */
int have_set(const char *pid, const char *marker);
void check_facts(void);
long openat2_(int where, const char *path, unsigned flags, unsigned resolve);

/* calls.c: do the recorded calls, to the second section's end */
void play(void);

/* program.c */
void take_place(char *prefix);
void take_text(char *text);
void check_program(void);
void prepare_program(void);
_Noreturn void become_program(void);
#endif
