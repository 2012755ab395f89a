/* Does the calls of a recording: form.py has the letters. */
#include "player.h"

#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { REGISTERS = 256, MOST_WORDS = 16, CLOSE_ON_EXEC = 4 /* <linux/close_range.h> */ };

static int registers[REGISTERS]; /* descriptors that the calls have opened */

/* A path in which \1 stands for the process's id and \2N\2 for the descriptor in register N. */
static const char *path(void) {
    static char paths[2][PATH_MAX];
    static int which;
    char *text = paths[which ^= 1], *to = text;
    for (const char *from = field(); *from; from++) {
        if (to - text > PATH_MAX - 16) give_up("a path", "It is too long.");
        if (*from == 1)
            to += must(readlink("/proc/self", to, 16), "/proc/self"); /* not getpid(2): /proc may be another's */
        else if (*from == 2) {
            to += sprintf(to, "%d", registers[strtoul(from + 1, NULL, 10) % REGISTERS]);
            from = strchr(from + 1, 2);
            if (!from) give_up("a recording", "It is damaged.");
        } else
            *to++ = *from;
    }
    *to = 0;
    return text;
}

static int *reg(void) {
    long which = number();
    if (which < 0 || which >= REGISTERS) give_up("a recording", "It is damaged.");
    return &registers[which];
}

static int where(void) {
    char *text = field();
    return *text == '-' ? AT_FDCWD : registers[strtol(text, NULL, 10) % REGISTERS];
}

static void write_all(int fd, const char *text) {
    size_t length = strlen(text);
    if (write(fd, text, length) != (ssize_t)length) give_up("write(2)", strerror(errno));
}

static void set_attributes(void) {
    int fd = *reg();
    unsigned flags = (unsigned)number();
    uint64_t attributes[] = {(uint64_t)number(), 0, 0, 0}; /* struct mount_attr */
    must(syscall(MOUNT_SETATTR, fd, "", flags, attributes, sizeof attributes), "mount_setattr(2)");
}

static void mount_(void) {
    const char *source = path(), *target = path(), *type = field();
    unsigned long flags = (unsigned long)number();
    must(mount(source, target, type, flags, field()), target);
}

static void open_(char letter) {
    int *to = reg(), from = where();
    const char *text = path();
    unsigned flags = (unsigned)number();
    if (letter == 'T') {
        *to = (int)must(syscall(OPEN_TREE, from, text, flags), text);
        return;
    }
    unsigned more = (unsigned)number();
    long fd = letter == 'R' ? openat2_(from, text, flags, more) : openat(from, text, (int)flags, more);
    *to = (int)must(fd, text);
}

static void move_(void) {
    int from = *reg(), to = where();
    const char *target = path();
    must(syscall(MOVE_MOUNT, from, "", to, target, (unsigned)number()), "move_mount(2)");
}

static void configure(void) {
    int fd = *reg();
    unsigned command = (unsigned)number();
    const char *key = field(), *value = path();
    long done = syscall(FSCONFIG, fd, command, *key ? key : NULL, *value ? value : NULL, 0);
    must(done, "fsconfig(2)");
}

/* The FUSE program: its words and variables so far, and its first process. */
static char *fuse_words[MOST_WORDS + 1], *fuse_variables[MOST_WORDS + 1];
static pid_t fuse;

static void add_to(char **list) {
    int count = 0;
    while (list[count]) count++;
    list[count] = strdup(path());
    if (count == MOST_WORDS || !list[count]) give_up("a recording", "It is damaged.");
}

/* Execute it; of the descriptors it has the image's and one more, and none of the caller's. */
static void spawn(void) {
    const char *program = path();
    int device = where();
    signal(SIGCHLD, SIG_DFL); /* ignored, the kernel would reap, and no status be known */
    fuse = (pid_t)must(fork(), "fork(2)");
    if (fuse) return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int done = setsid() >= 0 && null >= 0 && !syscall(CLOSE_RANGE, 3, ~0U, CLOSE_ON_EXEC);
    for (int each = 0; each < 3; each++) done = done && dup2(null, each) >= 0;
    done = done && !fcntl(image, F_SETFD, 0) && (device == AT_FDCWD || !fcntl(device, F_SETFD, 0));
    if (done) execve(program, fuse_words, fuse_variables);
    _exit(STATUS);
}

static void wait_for_fuse(void) {
    int status = 0;
    while (waitpid(fuse, &status, 0) < 0)
        if (errno != EINTR) give_up("waitpid(2)", strerror(errno));
    errno = 0; /* give_up() takes ENOMEM and the like for a lack of this process */
    if (status) give_up(fuse_words[0], "It ended with an error.");
}

static void join(void) {
    unsigned which = (unsigned)number();
    must(setns(which > OWNER ? -1 : namespaces[which], (int)number()), "setns(2)");
    is_begun = 1;
}

static void advise(void) {
    int fd = *reg();
    off_t at = number(), length = number();
    posix_fadvise(fd, at, length, (int)number());
}

static void play_one(char letter) {
    const char *text;
    int fd, value, *to;
    switch (letter) {
    case 'U': must(unshare((int)number()), "unshare(2)"); is_begun = 1; break;
    case 'O': case 'R': case 'T': open_(letter); break;
    case 'M': move_(); break;
    case 'A': set_attributes(); break;
    case 'Q': mount_(); break;
    case 'u': text = path(); must(umount2(text, (int)number()), text); break;
    case 'V': text = path(); must(syscall(SYS_pivot_root, text, path()), "pivot_root(2)"); break;
    case 'W': fd = *reg(); write_all(fd, field()); break;
    case 'C': close(*reg()); break;
    case 'D': fd = where(); text = path(); must(mkdirat(fd, text, (mode_t)number()), text); break;
    case 'L': text = field(); fd = where(); must(symlinkat(text, fd, path()), text); break;
    case 'H': text = path(); must(chdir(text), text); break;
    case 'F': must(fchdir(*reg()), "fchdir(2)"); break;
    case 'P':
        value = (int)number();
        fd = (int)number();
        must(prctl(value, fd, number(), 0, 0), "prctl(2)");
        break;
    case 'K': fd = *reg(); must(flock(fd, (int)number()), "flock(2)"); break;
    case 'N': to = reg(); *to = (int)must(syscall(FSOPEN, field(), 1), "fsopen(2)"); break;
    case 'G': configure(); break;
    case 'E':
        to = reg();
        fd = *reg();
        *to = (int)must(syscall(FSMOUNT, fd, 1, (unsigned)number()), "fsmount(2)");
        break;
    case 'I': advise(); break;
    case 'B': add_to(fuse_words); break;
    case 'Z': add_to(fuse_variables); break;
    case 'S': spawn(); break;
    case 'J': wait_for_fuse(); break;
    case 'j': join(); break;
    case 'Y': must(futimens(*reg(), NULL), "utimensat(2)"); break;
    default: give_up("a recording", "It is damaged.");
    }
}

/* Do the recorded calls, to the second section's end. */
void play(void) {
    for (char *letter = field(); *letter != '.'; letter = field()) play_one(*letter);
}
