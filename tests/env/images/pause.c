/* The container that holds a sandbox's namespaces open: waits for the signal to end, and reaps what it inherits when
 * it is process 1 of a shared process namespace. */
#include <signal.h>

int main(void)
{
	sigset_t end;
	int received;

	/* Ignored on purpose: the kernel then reaps children, adopted ones too, without anybody waiting for them. */
	signal(SIGCHLD, SIG_IGN);

	sigemptyset(&end);
	sigaddset(&end, SIGINT);
	sigaddset(&end, SIGTERM);
	sigprocmask(SIG_BLOCK, &end, 0);
	sigwait(&end, &received);
	return 0;
}
