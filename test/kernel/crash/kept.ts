/**
 * What gate and database keep, read from outside and only read: the pinned map
 * as the kernel has it, and the records of a running agent or of a dead one.
 */
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import koffi from 'koffi';
import { calls, check } from '../../../agent/dataplane/bpf.ts';
import type { Entry } from '../../../agent/dataplane/dataplane.ts';
import { ENTRY, LAYOUT } from '../../../agent/dataplane/layout.ts';
import { readEntry } from '../../../agent/dataplane/map-values.ts';
import type { BindingRow } from '../../../agent/grants/binding-rows.ts';
import type { GrantRecord } from '../../../agent/grants/record.ts';
import { COLUMNS, type Row, recordOf } from '../../../agent/grants/rows.ts';

const READ_ONLY = 1;
const SHARED = 1;

/** The entries that are alive at this moment. */
export function liveEntries(bpffs: string, count: number): Entry[] {
  const version = readdirSync(bpffs).find((name) => /^v\d+-/.test(name));
  if (!version) return [];
  const { size } = LAYOUT.gate_entry;
  const fd = check('bpf_obj_get', calls().get(join(bpffs, version, 'entries')));
  const at = calls().mmap(null, count * size, READ_ONLY, SHARED, fd, 0);
  try {
    const memory = koffi.view(at, count * size);
    const bytes = new Uint8Array(memory);
    const words = new BigUint64Array(memory);
    const nowNs = process.hrtime.bigint();
    const found: Entry[] = [];
    for (let index = 0; index < count; index++) {
      const end = (index * size) / 8;
      if ((words[end] as bigint) <= nowNs || words[end + ENTRY.number / 8] === 0n) continue;
      found.push(readEntry(index, Uint8Array.from(bytes.subarray(index * size, (index + 1) * size))));
    }
    return found;
  } finally {
    calls().munmap(at, count * size);
    calls().close(fd);
  }
}

/** What the database says. */
export interface Kept {
  readonly records: readonly GrantRecord[];
  /** Who holds which inner address. */
  readonly holders: ReadonlyMap<string, string>;
}

/** Of the agent that works in this folder. */
export function kept(folder: string): Kept {
  const db = new Database(join(folder, 'mtgate.db'), { readonly: true });
  try {
    const records = (db.prepare(`SELECT ${COLUMNS} FROM grants`).raw().all() as Row[]).map((row) => recordOf(row));
    const bindings = db.prepare('SELECT holder, target FROM bindings').all() as BindingRow[];
    return { records, holders: new Map(bindings.map(({ holder, target }) => [target ?? '', holder])) };
  } finally {
    db.close();
  }
}

/** Of one that is dead: from a copy, since to open a database is to mend it. */
export function keptByTheDead(folder: string): Kept {
  const copy = mkdtempSync(join(tmpdir(), 'mtgate-crash-'));
  try {
    for (const name of ['mtgate.db', 'mtgate.db-wal']) {
      if (existsSync(join(folder, name))) copyFileSync(join(folder, name), join(copy, name));
    }
    return existsSync(join(copy, 'mtgate.db')) ? kept(copy) : { records: [], holders: new Map() };
  } finally {
    rmSync(copy, { recursive: true });
  }
}
