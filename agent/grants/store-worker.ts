/** The thread that writes the grants' database: it owns the connection that commits (writes.ts). */
import { serveBatches } from '../commit-thread.ts';
import { connect } from './schema.ts';
import { writerOn } from './writes.ts';

serveBatches((file) => writerOn(connect(file)));
