/** A child's side of being watched (watched-child.ts): it ends with the agent, however that ends, and not before. */

/** `whenGone`: the kernel has closed the channel to the agent. */
export function endWithTheAgent(whenGone: () => void): void {
  process.on('disconnect', whenGone);
  if (!process.connected) process.exit(0); // an agent that was killed while this was starting: nobody told us
  // Meant for the agent, which stops its child itself.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
}
