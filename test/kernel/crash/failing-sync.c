/*
 * A disk that does not keep what it is given: preloaded (ld.so(8)), it makes
 * every fsync and fdatasync of a file in the folder $SYNC_FOLDER fail with EIO
 * while the file $SYNC_FAILS exists. Which of the two was called, and whether
 * it failed, is appended to $SYNC_LOG.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_ours(int fd)
{
	char link[64], path[4096];
	const char *folder = getenv("SYNC_FOLDER");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof(path) - 1);
	if (!folder || length < 0)
		return 0;
	path[length] = 0;
	return strncmp(path, folder, strlen(folder)) == 0;
}

static int sync_or_fail(const char *call, int fd)
{
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
	const char *control = getenv("SYNC_FAILS"), *log = getenv("SYNC_LOG");
	if (!is_ours(fd))
		return real(fd);
	int fails = control && access(control, F_OK) == 0;
	int told = log ? open(log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
	if (told >= 0) {
		dprintf(told, "%s%s\n", call, fails ? " EIO" : "");
		close(told);
	}
	if (!fails)
		return real(fd);
	errno = EIO;
	return -1;
}

int fsync(int fd)
{
	return sync_or_fail("fsync", fd);
}

int fdatasync(int fd)
{
	return sync_or_fail("fdatasync", fd);
}
