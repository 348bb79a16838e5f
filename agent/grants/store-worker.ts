/**
 * The thread that writes: it owns the connection that commits, so that the
 * agent's loop never waits for the disk. A message is a batch, its answer what
 * became of each (writes.ts); batches come one at a time.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { connect } from './schema.ts';
import { type Write, writerOn } from './writes.ts';

const write = writerOn(connect(workerData as string));
parentPort?.on('message', (batch: readonly Write[]) => parentPort?.postMessage(write(batch)));
