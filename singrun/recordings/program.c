/* The end of a recording: the program's variables and arguments, and who finds the program. */
#include "player.h"

#include <sys/utsname.h>

enum { VARIABLES = 1024, MOST_PLACES = 64, MOST_ARGUMENTS = 1024 };

static const char *own_places[MOST_PLACES], *shared_text = "";
static int own_count;
static char **program;   /* and its arguments */
static char **variables; /* that are being made */
static char **for_program, **for_action, *action;
static char is_host_file[MOST_ARGUMENTS];
static int argument_count;

/* Take a place that each root has of its own. */
void take_place(char *prefix) {
    need(own_count < MOST_PLACES);
    own_places[own_count++] = prefix;
}

/* Take what is said of a file of the host that is not there inside. */
void take_text(char *text) { shared_text = text; }

static int is_own(const char *word) {
    for (int each = 0; each < own_count; each++)
        if (!strncmp(word, own_places[each], strlen(own_places[each]))) return 1;
    return 0;
}

/* Whether an argument names a file of the host, which may be missing inside. */
static int names_host_file(const char *word) {
    struct stat status;
    return *word == '/' && !is_own(word) && !stat(word, &status);
}

/* Leave to Python what it leaves to the shell, and words that a message may escape. */
void check_program(void) {
    program = words + FIRST_WORD + word_count;
    is_recordable = 0;
    need(*program[0] && *program[0] != '-' && !strchr(program[0], '%'));
    for (char **word = program; *word; word++)
        if (names_host_file(*word))
            for (const char *each = *word; *each; each++) need(*each > 31 && *each < 127);
}

/* program.tell_missing(): shared_text with \1 for the path and \2 for its directory. */
static void tell_missing(const char *word) {
    const char *slash = strrchr(word, '/');
    for (const char *each = shared_text; *each; each++) {
        if (*each == 1)
            dprintf(2, "%s", word);
        else if (*each == 2)
            dprintf(2, "%.*s", (int)(slash == word ? strlen(word) : (size_t)(slash - word)), word);
        else
            dprintf(2, "%c", *each);
    }
}

static int variable_at(const char *variable) {
    size_t length = strcspn(variable, "=");
    for (int each = 0; variables[each]; each++)
        if (!strncmp(variables[each], variable, length + 1)) return each;
    return -1;
}

/* Set NAME=VALUE in the place of one of that name, or behind all others. */
static void set(char *variable) {
    int at = variable_at(variable);
    if (at >= 0) {
        variables[at] = variable;
        return;
    }
    for (at = 0; variables[at]; at++) {}
    variables[at] = variable;
    variables[at + 1] = NULL;
}

/* Whether a script could name a variable: POSIX, 3.216 Name. */
static int is_name(const char *text, size_t length) {
    for (size_t each = 0; each < length; each++) {
        int is_letter = text[each] == '_' || (unsigned)((text[each] | 32) - 'a') < 26;
        if (!is_letter && !(each && (unsigned)(text[each] - '0') < 10)) return 0;
    }
    return length > 0;
}

/* Drop a variable; with NULL those that dash does not hand on. */
static void drop(const char *variable) {
    int to = 0;
    for (int each = 0; variables[each]; each++) {
        const char *text = variables[each];
        size_t length = strcspn(text, "=");
        int stays = variable ? strlen(variable) != length || strncmp(text, variable, length)
                             : is_name(text, length) && strncmp(text, "_=", 2);
        if (stays) variables[to++] = variables[each];
    }
    variables[to] = NULL;
}

static char *joined(const char *variable, const char *value) {
    char *text = NULL;
    need(asprintf(&text, "%s=%s", variable, value) >= 0);
    return text;
}

/* Make the program's environment of the caller's, in the order in which Python has it.
 *
 * for_program: with the image's assignments; NULL where these are left to its shell. */
static char **environment(char *at, int for_program) {
    int count = 0, is_evaluated = 0;
    while (environ[count]) count++;
    need(count <= VARIABLES);
    variables = calloc(VARIABLES * 2 + LARGEST / 4, sizeof *variables);
    need(variables != NULL);
    char *before = next_field;
    next_field = at;
    char *letter = field();
    for (; *letter == 'f'; letter = field()) {
        const char *variable = field();
        set(joined(variable, field()));
    }
    while (count--)
        if (strchr(environ[count], '=') && *environ[count] != '=') set(environ[count]);
    for (;; letter = field()) {
        if (*letter == 'v')
            drop(field());
        else if (*letter == '=') {
            const char *variable = field();
            set(joined(variable, field()));
        } else if (*letter == 'z' && for_program) {
            is_evaluated = 1;
            drop(NULL);
        } else
            break;
    }
    int is_shells = for_program && !is_evaluated;
    next_field = before;
    return is_shells ? NULL : variables;
}

/* Execute the program by the PATH that it will have; return where a shell has to look for it. */
static void execute(char **with) {
    variables = with;
    static char text[PATH_MAX * 2];
    int found = variable_at("PATH=");
    const char *directories = found < 0 ? "" : with[found] + 5;
    for (int is_path = strchr(program[0], '/') != NULL;; directories++) {
        size_t length = is_path ? 0 : strcspn(directories, ":");
        if (length + strlen(program[0]) + 2 > sizeof text) return;
        const char *slash = length ? "/" : "";
        snprintf(text, sizeof text, "%.*s%s%s", (int)length, directories, slash, program[0]);
        execve(text, program, with);
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) return;
        directories += length;
        if (is_path || !*directories) return;
    }
}

/* The last section: the program's variables, and the action that a shell reads. */
static char *last_section(void) {
    char *at = next_field;
    while (*at != '.')
        for (int count = fields_of(at); count >= 0; count--) at += strlen(at) + 1;
    return at + strlen(at) + 1;
}

/* Do all that needs the host, or might fail, before the first call. */
void prepare_program(void) {
    char *last = last_section();
    for (action = end - 1; action[-1];) action--; /* the last field */
    for_program = environment(last, 1);
    for_action = environment(last, 0);
    for (; program[argument_count]; argument_count++) {
        int is_file = names_host_file(program[argument_count]);
        need(argument_count < MOST_ARGUMENTS || !is_file);
        if (is_file) is_host_file[argument_count] = 1;
    }
}

/* program._cannot(): why the action is not executed. */
static void say_why(int error) {
    struct utsname host;
    const char *more = "";
    char text[256];
    snprintf(text, sizeof text, "%s.", strerror(error));
    if (error == ENOENT)
        strcpy(text, "Container does not have a valid /bin/sh: what its first line names is missing.");
    if (error == ENOEXEC && !uname(&host))
        snprintf(text, sizeof text, "It, or the image's /bin/sh, is no program for this machine (%s).",
                 host.machine);
    if (error == E2BIG)
        more = "singrun:   Pass fewer or shorter arguments, or a smaller environment.\n";
    dprintf(2, "singrun: Cannot execute %s in the image\nsingrun:   %s\n%s", action, text, more);
}

/* Say what is missing inside, and execute the program or the action that looks for it. */
_Noreturn void become_program(void) {
    struct stat status;
    for (int each = 0; each < argument_count && each < MOST_ARGUMENTS; each++)
        if (is_host_file[each] && stat(program[each], &status)) {
            tell_missing(program[each]);
            break;
        }
    restore_signals();
    signal(SIGCHLD, SIG_DFL); /* as cli.main() does */
    if (for_program) execute(for_program);
    char **arguments = program - 1; /* the word before is the image's name, which is not needed */
    arguments[0] = action;
    execve(action, arguments, for_action);
    say_why(errno);
    _exit(STATUS);
}
