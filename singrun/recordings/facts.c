/* Checks the facts of a recording: form.py has the letters. */
#include "player.h"

#include <linux/nsfs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>

enum { MOST_GROUPS = 256, ATTEMPTS = 10000 };

int image = -1;
static int base = -1, tree = -1; /* the image's place in the cache, and its files */

/* Whether a file is what it was. expected: form.identity(), with or without size and times. */
static int is_same(const struct stat *is, const char *expected) {
    char text[256];
    int blanks = 0;
    for (const char *each = expected; *each; each++) blanks += *each == ' ';
    if (blanks == 4)
        snprintf(text, sizeof text, "%llu %llu %u %u %u", (unsigned long long)is->st_dev,
                 (unsigned long long)is->st_ino, is->st_mode, is->st_uid, is->st_gid);
    else
        snprintf(text, sizeof text, "%llu %llu %u %lld %lld.%09ld %lld.%09ld",
                 (unsigned long long)is->st_dev, (unsigned long long)is->st_ino, is->st_mode, (long long)is->st_size,
                 (long long)is->st_mtim.tv_sec, is->st_mtim.tv_nsec, (long long)is->st_ctim.tv_sec,
                 is->st_ctim.tv_nsec);
    return !strcmp(text, expected);
}

long openat2_(int where, const char *path, unsigned flags, unsigned resolve) {
    uint64_t how[] = {flags | O_CLOEXEC, 0, resolve};
    long fd = -1;
    for (int each = 0; each < ATTEMPTS; each++) {
        fd = syscall(OPENAT2, where, path, how, sizeof how);
        if (fd >= 0 || errno != EAGAIN) return fd;
        sched_yield(); /* something was mounted or renamed anywhere on the host: openat2(2) */
    }
    return fd;
}

/* s how path identity: a file of the host, or "-" for none. how: f follows links. */
static void check_file(void) {
    struct stat status;
    const char *how = field(), *path = field(), *expected = field();
    int failed = fstatat(AT_FDCWD, path, &status, *how == 'f' ? 0 : AT_SYMLINK_NOFOLLOW);
    if (!strcmp(expected, "-"))
        need(failed && (errno == ENOENT || errno == ENOTDIR));
    else
        need(!failed && is_same(&status, expected));
}

/* t flags path identity: a file of the image, or -ERRNO. */
static void check_in_tree(void) {
    struct stat status;
    unsigned flags = (unsigned)number();
    const char *path = field(), *expected = field();
    long fd = openat2_(tree, path, flags, IN_ROOT);
    if (*expected == '-') {
        need(fd < 0 && errno == atoi(expected + 1));
        return;
    }
    need(fd >= 0 && !fstat((int)fd, &status) && is_same(&status, expected));
    close((int)fd);
}

/* o path identity: the image's file, which stays locked until the program starts. */
static void check_image(void) {
    struct stat status;
    const char *path = field(), *expected = field();
    image = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    need(image >= 0 && !fstat(image, &status) && is_same(&status, expected));
    need(!flock(image, LOCK_SH | LOCK_NB));
}

/* d path identity: the image's place in the cache, locked so that nothing takes it away. */
static void check_cached(void) {
    struct stat status, now;
    const char *path = field(), *expected = field();
    base = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    need(base >= 0 && !fstat(base, &status) && is_same(&status, expected));
    need(!flock(base, LOCK_SH | LOCK_NB) && !lstat(path, &now));
    need(now.st_dev == status.st_dev && now.st_ino == status.st_ino);
}

static void check_ids(void) {
    uid_t real, effective, saved, uid = (uid_t)number();
    gid_t real_gid, effective_gid, saved_gid, gid = (gid_t)number();
    need(uid && !getresuid(&real, &effective, &saved));
    need(real == uid && effective == uid && saved == uid);
    need(!getresgid(&real_gid, &effective_gid, &saved_gid));
    need(real_gid == gid && effective_gid == gid && saved_gid == gid);
}

static void check_groups(void) {
    gid_t groups[MOST_GROUPS];
    const char *expected = field();
    char text[MOST_GROUPS * 11 + 1];
    int length = 0, count = getgroups(MOST_GROUPS, groups);
    need(count >= 0);
    text[0] = 0;
    for (int each = 0; each < count; each++)
        length += sprintf(text + length, "%u ", (unsigned)groups[each]);
    need(!strcmp(text, expected));
}

static void check_boot(void) {
    char text[64] = "";
    const char *expected = field();
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    need(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    text[strcspn(text, "\n")] = 0;
    need(!strcmp(text, expected));
    close(fd);
}

static void check_prefix(void) {
    const char *prefix = field();
    long count = number();
    for (char **each = environ; *each; each++) count -= !strncmp(*each, prefix, strlen(prefix));
    need(count == 0);
}

int namespaces[3] = {-1, -1, -1};

static int is_same_file(int one, int other) {
    struct stat a, b;
    return !fstat(one, &a) && !fstat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int opened_namespace(const char *pid, const char *kind) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%.16s/ns/%s", pid, kind);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* ProgramNamespaces.has_marker(): the marker names the mount namespace, which is held open. */
static int has_marker(const char *pid, const char *marker) {
    struct stat status;
    char path[64], row[128], *line = NULL;
    size_t size = 0;
    int found = 0;
    snprintf(path, sizeof path, "/proc/%.16s/mountinfo", pid);
    FILE *file = fstat(namespaces[MOUNTS], &status) ? NULL : fopen(path, "re");
    if (!file) return 0;
    snprintf(row, sizeof row, " tmpfs %.80s-%llu ", marker, (unsigned long long)status.st_ino);
    while (!found && getline(&line, &size, file) > 0) found = strstr(line, row) != NULL;
    free(line);
    fclose(file);
    return found;
}

/* q pid marker: ProgramNamespaces.are_ours(): this user's launch made them, no program inside. */
int have_set(const char *pid, const char *marker) {
    uid_t uid = 0;
    int *mounts = &namespaces[MOUNTS], *user = &namespaces[USER], *owner = &namespaces[OWNER];
    for (int each = 0; each < 3; each++)
        if (namespaces[each] >= 0) close(namespaces[each]);
    *mounts = opened_namespace(pid, "mnt");
    *user = opened_namespace(pid, "user");
    *owner = ioctl(*mounts, NS_GET_USERNS);
    if (*mounts < 0 || *user < 0 || *owner < 0 || !has_marker(pid, marker)) return 0;
    int above = ioctl(*user, NS_GET_PARENT), host = ioctl(*owner, NS_GET_PARENT);
    int own = opened_namespace("self", "user");
    int is_ours = is_same_file(above, *owner) && is_same_file(host, own);
    is_ours = is_ours && !ioctl(*owner, NS_GET_OWNER_UID, &uid) && uid == geteuid();
    close(own);
    close(above);
    close(host);
    return is_ours;
}

static void check_cwd(void) {
    static char path[PATH_MAX];
    need(getcwd(path, sizeof path) && !strcmp(path, field()));
}

void check_facts(void) {
    struct stat status;
    struct statvfs system;
    const char *text;
    int word = 0;
    for (;;) {
        switch (*field()) {
        case 'k': need(word < word_count && !strcmp(words[FIRST_WORD + word++], field())); break;
        case 'e': text = value_of(field()); need(text && !strcmp(text, field())); break;
        case 'n': need(!value_of(field())); break;
        case 'h': need(value_of(field()) != NULL); break;
        case 'p': check_prefix(); break;
        case 'i': check_ids(); break;
        case 'g': check_groups(); break;
        case 'c': check_cwd(); break;
        case 'b': check_boot(); break;
        case 's': check_file(); break;
        case 'o': check_image(); break;
        case 'd': check_cached(); break;
        case 'r':
            tree = openat(base, field(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            need(tree >= 0 && !fstat(tree, &status) && is_same(&status, field()));
            break;
        case 'x': need(!fstatvfs(tree, &system) && !(system.f_flag & ST_NOEXEC)); break;
        case 't': check_in_tree(); break;
        case 'a': take_place(field()); break;
        case 'm': take_text(field()); break;
        case '.': need(word == word_count && image >= 0); return;
        default: hand_over();
        }
    }
}
