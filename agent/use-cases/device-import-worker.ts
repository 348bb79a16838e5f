/**
 * The thread of one import of devices: it reads the rows, judges them and
 * writes them, so that the agent's loop answers meanwhile. It ends with the
 * import; however it ends, what is not committed was never there.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Import, type Imported, type ImportOrder } from '../directory/registry-import.ts';
import { connectRegistry } from '../directory/registry-store.ts';
import { identitiesBy } from '../files/identity-key.ts';
import type { MtcUser } from '../policy/policy.ts';
import { ownerAmong } from '../policy/policy-index.ts';

export interface ImportTask {
  readonly file: string;
  /** Where the rows are gathered. */
  readonly beside: string;
  readonly order: ImportOrder;
  /** By which IMSI and MSISDN are hashed, and whether they are kept as they are. */
  readonly identityKey: { readonly key: Uint8Array; readonly keep: boolean };
  /** Whose devices are whose. */
  readonly mtcUsers: readonly Pick<MtcUser, 'name' | 'devices'>[];
}

/** Each is answered, before the next one is sent. */
export type ImportMessage = Uint8Array | 'finish' | 'commit';
export type ImportAnswer = 'taken' | 'committed' | Imported;

const { file, beside, order, identityKey, mtcUsers } = workerData as ImportTask;
const db = connectRegistry(file);
db.pragma('cache_size = -65536');
const ownerOf = ownerAmong(mtcUsers);
const importing = new Import(db, beside, order, (externalId) => ownerOf(externalId)?.name, identitiesBy(identityKey));
parentPort?.on('message', (message: ImportMessage) => parentPort?.postMessage(answer(message)));

function answer(message: ImportMessage): ImportAnswer {
  if (message === 'finish') return importing.finish();
  if (message === 'commit') {
    importing.commit();
    db.pragma('wal_checkpoint(TRUNCATE)'); // what a million rows have made of the log is not kept
    return 'committed';
  }
  importing.take(message);
  return 'taken';
}
