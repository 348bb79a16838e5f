/** The gate for tests that hang it at interfaces: which object, and how to act in a namespace. */
import { ROOT } from './child.ts';
import { enter } from './enter.ts';
import type { Network } from './network.ts';

export const GATE_OBJECT = `${ROOT}dist/dataplane/gate.bpf.o`;

/**
 * Does something as if this process stood in a namespace. The kernel moves the
 * calling thread only: the work must be synchronous, as all of the gate's is.
 */
export function within<T>(network: Network, namespace: string, work: () => T): T {
  const leave = enter(network.name(namespace));
  try {
    return work();
  } finally {
    leave();
  }
}
