/** The thread that writes the grants' database: it owns the connection that commits (writes.ts). */
import { serveBatches } from '../sqlite/commit-thread.ts';
import { connect } from '../sqlite/database.ts';
import { GRANTS_FORM } from './schema.ts';
import { writerOn } from './writes.ts';

serveBatches((file) => writerOn(connect(file, GRANTS_FORM)));
