/**
 * Takes the test's own thread into a network namespace: for calls that look
 * at interfaces themselves, such as loading the gate and asking it about a
 * packet. Children are better started inside (network.ts).
 */
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import type { Network } from './network.ts';

const CLONE_NEWNET = 0x4000_0000;
const setns = koffi.load('libc.so.6').func('int setns(int fd, int type)');

/** Enters the namespace of that name in /run/netns, and returns the way back. */
export function enter(name: string): () => void {
  const before = openSync('/proc/thread-self/ns/net', 'r');
  move(`/run/netns/${name}`);
  return () => {
    if (setns(before, CLONE_NEWNET) !== 0) throw new Error('cannot leave the network namespace');
    closeSync(before);
  };
}

/** Does something in a namespace, and comes back: the work must be synchronous, since only this thread has moved. */
export function within<T>(network: Network, namespace: string, work: () => T): T {
  const leave = enter(network.name(namespace));
  try {
    return work();
  } finally {
    leave();
  }
}

function move(path: string): void {
  const fd = openSync(path, 'r');
  try {
    if (setns(fd, CLONE_NEWNET) !== 0) throw new Error(`cannot enter ${path}: errno ${koffi.errno()}`);
  } finally {
    closeSync(fd);
  }
}
