/* Plays a launch again that singrun has recorded, if every fact that it rests on is still true.
 *
 * Usage: player PYTHON HERE MAIN WORD...    the words of singrun's command line
 *
 * form.py has the form of a recording, and what each letter means; recording.py decides what is
 * recorded. No decision of a launch is taken here. Whatever differs, is missing or is not
 * understood before the first call that changes anything ends in hand_over(): Python starts as it
 * would have without this program, with everything closed that was opened here.
 */
#include "player.h"

#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>

#define FAILED "failed\n" /* directory.FAILED */
#define MAGIC "singrun launch 1\n"
/* Fields behind each letter: form.FIELDS. */
#define FIELDS                                                                       \
    "q2k1e2n1h1p2i2g1c1b1s3o2d2r2x0t3a1m1.0U1O5R5T4M4A3Q5u2V2W2C1D3L3H1F1P3K2Y1"      \
    "N2G4E3I4B1Z1S2J0j2v1f2=2z0X1"
#define START 0xcbf29ce484222325 /* of an FNV-1a hash of 64 bits */
enum { DIGITS = 16, MOST_WORDS = 16, DAY = 86400 };
enum { PATIENCE = 5000000, PAUSE = 2000 }; /* microseconds to wait for who sets up; between two looks */

char **words, *next_field, *end;
int word_count, is_begun, is_recordable = 1;
static char contents[LARGEST + 1]; /* of the recording */
static char name[DIGITS + sizeof "ranks-"];
static int directory = -1; /* where recordings are */
static int set_lock = -1;  /* held: this process will record the set of its ranks, as Python */
static mode_t own_umask;

/* Become Python, as bin/singrun does without this program. proc(5), stat: from field 3 on. */
_Noreturn void hand_over(void) {
    static char line[4096], state[5000], here[PATH_MAX + 16], lock[32];
    int count = 0, at = 0, fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, line, sizeof line - 1) > 0) line[strcspn(line, "\n")] = 0;
    const char *fields = strrchr(line, ')');
    snprintf(state, sizeof state, "stat=%s", fields && fields[1] ? fields + 2 : "");
    snprintf(here, sizeof here, "here=%s", words[1]);
    snprintf(lock, sizeof lock, "set=%d", set_lock);
    while (words[count]) count++;
    char *options[] = {words[0], "-IS", "-X", "utf8", "-X", state, "-X", here, "-X", "player=" FIELDS, "-X", lock};
    int most = sizeof options / sizeof *options - (set_lock >= 0 ? 0 : is_recordable ? 2 : 4);
    char **python = calloc((size_t)(count + most), sizeof *python);
    if (!python) _exit(STATUS);
    for (; at < most; at++) python[at] = options[at];
    for (int each = 2; each < count; each++) python[at++] = words[each];
    signal(SIGINT, SIG_IGN); /* until main() has the caller's disposition back */
    execv(words[0], python);
    dprintf(2, "singrun: Cannot execute %s: %s\n", words[0], strerror(errno));
    _exit(STATUS);
}

void need(int is_so) {
    if (!is_so) hand_over();
}

static sighandler_t for_size, for_pipe;

/* As Python does, whose write(2) fails where a signal would end it. */
static void ignore_signals(void) {
    for_size = signal(SIGXFSZ, SIG_IGN);
    for_pipe = signal(SIGPIPE, SIG_IGN);
}

void restore_signals(void) {
    signal(SIGXFSZ, for_size);
    signal(SIGPIPE, for_pipe);
}

/* End after a failure when there is no way back; this command line is Python's for a day, unless
 * it was for want of something that may be there the next time. */
_Noreturn void give_up(const char *what, const char *why) {
    if (!is_begun) {
        umask(own_umask);
        restore_signals();
        hand_over();
    }
    int wants = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOSPC || errno == EFBIG
                || errno == EAGAIN;
    int fd = wants ? -1 : openat(directory, name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && write(fd, FAILED, sizeof FAILED - 1) < 0) unlinkat(directory, name, 0);
    dprintf(2, "singrun: Cannot start: %s: %s\nsingrun:   %s\n", what, why,
            wants ? "A limit may be too low: see ulimit -a." : "Something changed meanwhile: start it again.");
    _exit(STATUS);
}

long must(long result, const char *what) {
    if (result < 0) give_up(what, strerror(errno));
    return result;
}

char *field(void) {
    char *start = next_field;
    next_field += strlen(start) + 1;
    return start;
}

long number(void) { return strtol(field(), NULL, 10); }

int fields_of(const char *letter) {
    if (!letter[0] || letter[1]) return -1;
    for (const char *each = FIELDS; *each; each += 2)
        if (each[0] == letter[0]) return each[1] - '0';
    return -1;
}

/* Whether the recording is whole: letters that are known with their fields, to the last byte. */
static int is_whole(void) {
    char last = 0;
    int sections = 0;
    for (char *at = next_field; at < end;) {
        int count = fields_of(at);
        if (count < 0) return 0;
        last = *at;
        sections += last == '.';
        for (; count >= 0; count--) {
            if (at >= end) return 0;
            at += strlen(at) + 1;
        }
    }
    return last == 'X' && sections == 2;
}

static uint64_t hashed(uint64_t hash, const char *bytes, size_t length) { /* FNV-1a */
    for (size_t each = 0; each < length; each++)
        hash = (hash ^ (unsigned char)bytes[each]) * 0x100000001b3;
    return hash;
}

static int is_private(const struct stat *status, unsigned kind) {
    if (status->st_uid != geteuid() || status->st_mode & 077) return 0;
    return (status->st_mode & S_IFMT) == kind && (kind == S_IFDIR || status->st_nlink == 1);
}

/* Read the recording called ``name``; return whether it is the caller's own and undamaged. */
static int is_read(void) {
    struct stat status;
    /* For writing, too: where a failure cannot be noted, it would come again and again. */
    int fd = openat(directory, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = -1;
    if (!fstat(fd, &status) && is_private(&status, S_IFREG) && status.st_size <= LARGEST)
        length = read(fd, contents, LARGEST);
    close(fd);
    size_t head = sizeof MAGIC - 1;
    if (length < (ssize_t)head + DIGITS + 1 || length != status.st_size) return 0;
    if (memcmp(contents, MAGIC, head)) return 0;
    char digits[DIGITS + 1];
    next_field = contents + head + DIGITS;
    end = contents + length;
    *end = 0;
    unsigned long long hash = hashed(START, next_field, (size_t)(end - next_field));
    snprintf(digits, sizeof digits, "%016llx", hash);
    return end[-1] == 0 && !memcmp(digits, contents + head, DIGITS) && is_whole();
}

const char *value_of(const char *variable) {
    size_t length = strlen(variable);
    for (char **each = environ; *each; each++)
        if (!strncmp(*each, variable, length) && (*each)[length] == '=') return *each + length + 1;
    return NULL;
}

/* Whether ranks are to look for their set: ranks have started these words before, who noted the
 * variable that tells ranks, "-" for --join, and those of their job, whose values go into ``hash``. */
static int is_of_ranks(uint64_t words_hash, uint64_t hash) {
    char text[512], *next = text;
    snprintf(name, sizeof name, "ranks-%016llx", (unsigned long long)words_hash);
    ssize_t length = readlinkat(directory, name, text, sizeof text - 1);
    if (length < 1) return 0;
    text[length] = 0;
    const char *rank = strsep(&next, ":");
    if (*rank != '-' && !value_of(rank)) return 0;
    for (const char *each = strsep(&next, ":"); each; each = strsep(&next, ":")) {
        const char *value = value_of(each);
        hash = hashed(hash, value ? value : "", value ? strlen(value) + 1 : 1);
    }
    snprintf(name, sizeof name, "set-%016llx", (unsigned long long)hash);
    return 1;
}

/* Whether there is a recording of the set, and the process in it that was joined. */
static int is_current(void) {
    if (!is_read() || *field() != 'q') return 0;
    const char *pid = field();
    return have_set(pid, field());
}

/* Find the recording of the set. The first rank without one becomes Python, which sets up and
 * records, and holds the lock until its program starts, or it ends. The others wait for that. */
static void find_set(void) {
    struct stat status;
    if (is_current()) return;
    int fd = openat(directory, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    need(fd >= 0 && !fstat(fd, &status));
    time_t age = time(NULL) - status.st_mtime; /* less than none after a jump of the clock */
    need(status.st_size != sizeof FAILED - 1 || age < 0 || age >= DAY);
    int is_first = !flock(fd, LOCK_EX | LOCK_NB), is_held = !is_first && errno == EWOULDBLOCK;
    for (int left = PATIENCE / PAUSE; is_held && left && flock(fd, LOCK_SH | LOCK_NB); left--) usleep(PAUSE);
    if (is_current()) {
        close(fd);
        return;
    }
    if (is_first && !fcntl(fd, F_SETFD, 0)) set_lock = fd;
    hand_over();
}

/* Find the recording of the words before the program, where the caller stands now. */
static void find(void) {
    static char cwd[PATH_MAX];
    char place[64];
    struct stat status;
    snprintf(place, sizeof place, "/var/tmp/singrun-launches-%u", (unsigned)geteuid());
    directory = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    need(directory >= 0 && !fstat(directory, &status) && is_private(&status, S_IFDIR));
    need(getcwd(cwd, sizeof cwd) != NULL);
    const char *pwd = value_of("PWD");
    uint64_t hash = hashed(START, cwd, strlen(cwd) + 1), in_any = hashed(START, words[2], strlen(words[2]) + 1);
    hash = hashed(hash, pwd ? pwd : "", pwd ? strlen(pwd) + 1 : 1);
    hash = hashed(hash, words[2], strlen(words[2]) + 1); /* another installation has its own */
    for (int count = 1; count <= MOST_WORDS && words[FIRST_WORD + count - 1]; count++) {
        const char *word = words[FIRST_WORD + count - 1];
        hash = hashed(hash, word, strlen(word) + 1);
        in_any = hashed(in_any, word, strlen(word) + 1);
        word_count = count;
        if (count == 1 || !words[FIRST_WORD + count]) continue;
        if (is_of_ranks(in_any, hash)) {
            find_set();
            return;
        }
        snprintf(name, sizeof name, "%016llx", (unsigned long long)hash);
        if (is_read()) return;
    }
    hand_over();
}

/* Whether a limit is so low that Python should say what it is that fails. */
static int is_limited(int resource, rlim_t least) {
    struct rlimit limit;
    return getrlimit(resource, &limit) || limit.rlim_cur < least;
}

int main(int argc, char **argv) {
    if (argc == 1) return 0; /* directory.try_player() */
    if (argc <= FIRST_WORD) return STATUS;
    words = argv + 1;
    is_recordable = geteuid() && !getauxval(AT_SECURE) && argc > FIRST_WORD + 3;
    for (int each = 0; each < 3; each++) is_recordable &= fcntl(each, F_GETFD) >= 0;
    is_recordable &= !is_limited(RLIMIT_NOFILE, 256) && !is_limited(RLIMIT_FSIZE, 1 << 20);
    need(is_recordable);
    find();
    check_facts();
    check_program();
    prepare_program();
    own_umask = umask(022); /* as Origin has it */
    ignore_signals();
    play();
    umask(own_umask);
    become_program();
}
