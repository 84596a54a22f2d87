/* Run in a container, in a shared folder: what a program sees there while the host changes it. Prints "NAME: RESULT".
 *
 * Guest and host wait for each other's files guest-N and host-N. The host's side is in program_machine.py.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 10, SIZE = 1 << 20, PAGE = 500000, SECONDS = 300 };

static char text[64];

static void result(const char *name, const char *value) {
    printf("%s: %s\n", name, value);
    fflush(stdout);
}

static const char *success(int value) { return value < 0 ? strerror(errno) : "yes"; }

static void done(int step) { /* let the host continue */
    char name[32];
    snprintf(name, sizeof name, "guest-%d", step);
    close(open(name, O_CREAT | O_WRONLY, 0644));
}

static void wait_for_host(int step) {
    char name[32];
    snprintf(name, sizeof name, "host-%d", step);
    for (int tries = 0; access(name, F_OK) && tries < SECONDS * 1000; tries++) usleep(1000);
}

static const char *content(int file) { /* of the file's beginning, without its line end */
    ssize_t size = pread(file, text, sizeof text - 1, 0);
    if (size < 0) return strerror(errno);
    text[size] = 0;
    text[strcspn(text, "\n")] = 0;
    return text;
}

static const char *content_of(const char *name) {
    int file = open(name, O_RDONLY);
    if (file < 0) return strerror(errno);
    content(file);
    close(file);
    return text;
}

static const char *rest(int file) { /* what can be read behind the position */
    ssize_t size = read(file, text, sizeof text - 1);
    if (size < 0) return strerror(errno);
    text[size] = 0;
    text[strcspn(text, "\n")] = 0;
    return size ? text : "nothing";
}

static void locks(void) {
    int first = open("lock", O_RDWR | O_CREAT, 0644), second = open("lock", O_RDWR), status;
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    result("flock", success(flock(first, LOCK_EX)));
    result("flock held by another", success(flock(second, LOCK_EX | LOCK_NB)));
    result("fcntl lock", success(fcntl(first, F_SETLK, &range)));
    if (fork() == 0) _exit(fcntl(second, F_SETLK, &range) < 0 ? errno : 0);
    wait(&status);
    errno = WEXITSTATUS(status);
    result("fcntl lock held by another", success(errno ? -1 : 0));
    close(second);
    close(first);
}

static void other_user(void) { /* in a folder of mode 755, and in one where all may write */
    int status;
    mkdir("private", 0755);
    mkdir("public", 0755);
    result("chmod 1777", success(chmod("public", 01777)));
    for (int number = 0; number < 2; number++) {
        if (fork() == 0) {
            if (setuid(4321)) _exit(255);
            _exit(open(number ? "public/made" : "private/made", O_CREAT | O_WRONLY, 0644) < 0 ? errno : 0);
        }
        wait(&status);
        errno = WEXITSTATUS(status);
        result(number ? "another user in mode 1777" : "another user in mode 755", success(errno ? -1 : 0));
    }
}

int main(void) {
    struct stat status;
    locks();
    other_user();
    for (int step = 1; step <= ROUNDS; step++) {
        wait_for_host(step);
        done(step);
    }

    int open_file = open("open", O_RDONLY), appended = open("appended", O_RDONLY), mapped = open("mapped", O_RDWR);
    char *memory = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
    result("mmap", memory == MAP_FAILED ? strerror(errno) : "yes");
    if (memory == MAP_FAILED) return 1;
    result("open before", content(open_file));
    result("appended before", rest(appended));
    result("mapped before", (snprintf(text, 5, "%s", memory), text));
    result("older before", content_of("older"));
    done(11);
    wait_for_host(11); /* the host has changed the four files */
    result("open at once", content(open_file));
    result("appended at once", rest(appended));
    result("mapped at once", (snprintf(text, 5, "%s", memory), text));
    sleep(3);
    result("open after 3 s", content(open_file));
    result("appended after 3 s", rest(appended));
    result("mapped after 3 s", (snprintf(text, 5, "%s", memory), text));
    result("older opened", content_of("older"));
    fstat(open_file, &status);
    fstat(appended, &status);
    fstat(mapped, &status);
    result("open after stat", content(open_file));
    result("appended after stat", rest(appended));
    result("mapped after stat", (snprintf(text, 5, "%s", memory), text));
    result("open opened", content_of("open"));

    memcpy(memory + PAGE, "guest", 5);
    result("msync", success(msync(memory, SIZE, MS_SYNC)));
    done(12);
    wait_for_host(12); /* the host has seen the change of memory */
    memcpy(memory + PAGE, "again", 5);
    munmap(memory, SIZE);
    done(13);
    wait_for_host(13);
    int written = open("written", O_CREAT | O_WRONLY, 0644);
    result("write", success(write(written, "line\n", 5) == 5 ? 0 : -1));
    done(14);
    wait_for_host(14); /* the host has seen the line */
    unlink("written");
    result("write to an unlinked file", success(write(written, "line\n", 5) == 5 ? 0 : -1));
    return 0;
}
