/** The thread that writes triggers.db: it owns the connection that commits (writes.ts). */
import { serveBatches } from '../commit-thread.ts';
import { connectTriggers } from './schema.ts';
import { triggerWriterOn } from './writes.ts';

serveBatches((file) => triggerWriterOn(connectTriggers(file)));
