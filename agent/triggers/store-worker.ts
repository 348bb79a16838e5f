/** The thread that writes triggers.db: it owns the connection that commits (writes.ts). */
import { serveBatches } from '../sqlite/commit-thread.ts';
import { connect } from '../sqlite/database.ts';
import { TRIGGERS_FORM } from './schema.ts';
import { triggerWriterOn } from './writes.ts';

serveBatches((file) => triggerWriterOn(connect(file, TRIGGERS_FORM)));
