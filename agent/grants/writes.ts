/**
 * Everything that is written to the grants' database, as values that can be
 * handed to the thread that writes; and how a batch of them is written: in one
 * transaction, so that they share one wait for the disk.
 */
import type Database from 'better-sqlite3';
import { eachAloneIfNeeded, type Written } from '../core/commits.ts';
import type { RebindRows } from './binding-rows.ts';
import type { Retry } from './record.ts';
import { type ChangedRow, NEW_COLUMNS, type NewRow } from './rows.ts';
import type { WaitEndRow, WaitRow } from './waiting-rows.ts';

/** The new end of a grant, on the clock of the boot. */
type ReopenedEnd = Pick<ChangedRow, 'id' | 'expiresAtNs'>;

/** What answers a request that is sent again; statements name their parameters so. */
export interface AnswerRow extends Retry {
  readonly server: string;
  readonly id: string;
  readonly expiresAtMs: number;
}

export type Write =
  | { readonly kind: 'insert'; readonly row: NewRow; readonly answer?: AnswerRow | undefined }
  | { readonly kind: 'wait'; readonly row: WaitRow; readonly answer?: AnswerRow | undefined }
  /** One that waits becomes a live grant; changes nothing where it waits no more. */
  | { readonly kind: 'grantWait'; readonly id: string; readonly expiresAtMs: number; readonly row: NewRow }
  | { readonly kind: 'endWait'; readonly row: WaitEndRow }
  | { readonly kind: 'rewait'; readonly bootId: string; readonly ends: readonly Pick<WaitRow, 'id' | 'waitsUntilNs'>[] }
  | {
      readonly kind: 'extend';
      readonly row: ChangedRow;
      readonly fromNs: bigint;
      readonly answer?: AnswerRow | undefined;
    }
  | { readonly kind: 'end' | 'lower' | 'hold' | 'resume'; readonly row: ChangedRow }
  /** Every binding but those of the devices file is to be confirmed before grants lead there again. */
  | { readonly kind: 'unconfirm' }
  | { readonly kind: 'reopen'; readonly bootId: string; readonly ends: readonly ReopenedEnd[] }
  | ({ readonly kind: 'rebind' } & RebindRows)
  | { readonly kind: 'purge'; readonly endedBeforeMs: number; readonly forgottenBeforeMs: number }
  | { readonly kind: 'overtake'; readonly batches: number };

/** What may change of a live grant, as the record has it. */
const AS_IN_RECORD = `certificate = @certificate, rule = @rule, policy_version = @policyVersion, mtc_user = @mtcUser, granted_seconds = @grantedSeconds,
  boot_id = @bootId, expires_at_ns = @expiresAtNs, expires_at_ms = @expiresAtMs,
  packets_per_second = @packetsPerSecond, byte_quota = @byteQuota`;

/** Writes batches on a connection of its own. */
export function writerOn(db: Database.Database): (batch: readonly Write[]) => readonly Written[] {
  const statement = {
    insert: db.prepare(`INSERT INTO grants (${NEW_COLUMNS}, previous_state, state, cause)
      VALUES (${NEW_COLUMNS.replace(/\w+/g, '?')}, ?, 'live', 'granted')`),
    wait: db.prepare(`INSERT INTO waits VALUES (@id, @gateway, @server, @certificate, @correlator, @requestAddress,
      @device, @mtcUser, @rule, @policyVersion, @remote, @family, @protocol, @devicePort, @ask,
      @waitSeconds, @requestedAtMs, @waitsUntilMs, @bootId, @waitsUntilNs, 'none', 'waiting', 'accepted', NULL)`),
    takeWait: db.prepare(`DELETE FROM waits WHERE id = ? AND state = 'waiting'`),
    grantAnswer: db.prepare('UPDATE answers SET expires_at_ms = ? WHERE grant_id = ?'),
    endWait: db.prepare(`UPDATE waits SET previous_state = state, state = 'ended', cause = @endCause,
      ended_at_ms = @endedAtMs WHERE id = @id AND state = 'waiting'`),
    rewait: db.prepare(`UPDATE waits SET previous_state = state, cause = 'reopened', boot_id = ?, waits_until_ns = ?
      WHERE id = ? AND state = 'waiting'`),
    extend: db.prepare(`UPDATE grants SET previous_state = state, cause = 'extended', ${AS_IN_RECORD}
      WHERE id = @id AND state = 'live' AND expires_at_ns = @fromNs`),
    end: db.prepare(`UPDATE grants SET previous_state = state, state = 'ended', cause = @endCause,
      ended_at_ms = @endedAtMs, ${AS_IN_RECORD} WHERE id = @id AND state <> 'ended'`),
    reopen: db.prepare(`UPDATE grants SET previous_state = state, cause = 'reopened', boot_id = ?, expires_at_ns = ?
      WHERE id = ?`),
    lower: db.prepare(`UPDATE grants SET previous_state = state, cause = 'lowered', ${AS_IN_RECORD}
      WHERE id = @id AND state <> 'ended'`),
    hold: db.prepare(`UPDATE grants SET previous_state = state, state = 'held', cause = 'held', ${AS_IN_RECORD}
      WHERE id = @id AND state <> 'ended'`),
    resume: db.prepare(`UPDATE grants SET previous_state = state, state = 'live', cause = 'confirmed', ${AS_IN_RECORD}
      WHERE id = @id AND state = 'held'`),
    keepAnswer: db.prepare('INSERT OR REPLACE INTO answers VALUES (@server, @key, @request, @id, @expiresAtMs, @atMs)'),
    // An end that comes down takes back what promised more. A grant that the gate never had was promised to nobody.
    withdrawAnswers: db.prepare(`DELETE FROM answers
      WHERE grant_id = @id AND (expires_at_ms > @expiresAtMs OR @endCause = 'lostInGate')`),
    bind: db.prepare(
      'INSERT OR REPLACE INTO bindings VALUES (@realm, @prefix, @target, @holder, @source, @sinceMs, 0)',
    ),
    unconfirm: db.prepare(`UPDATE bindings SET unconfirmed = 1 WHERE source <> 'file'`),
    confirm: db.prepare('UPDATE bindings SET unconfirmed = 0 WHERE realm = @realm AND prefix = @prefix'),
    unbind: db.prepare('DELETE FROM bindings WHERE realm = @realm AND prefix = @prefix'),
    keepUnbound: db.prepare(
      'INSERT INTO ended_bindings VALUES (@realm, @prefix, @target, @holder, @source, @sinceMs, @untilMs, @cause)',
    ),
    putSession: db.prepare(`INSERT OR REPLACE INTO sessions VALUES (@client, @nas, @session,
      @imsi, @msisdn, @externalId, @holder, @ranges, @lastAtMs, @heardMs, NULL)`),
    stopSession: db.prepare(`INSERT OR REPLACE INTO sessions (client, nas, session, stopped_at_ms)
      VALUES (@client, @nas, @session, @stoppedAtMs)`),
    forgetSession: db.prepare('DELETE FROM sessions WHERE client = @client AND nas = @nas AND session = @session'),
    restart: db.prepare('INSERT OR REPLACE INTO nas_restarts VALUES (@client, @nas, @atMs)'),
    purgeUnbound: db.prepare('DELETE FROM ended_bindings WHERE until_ms < ?'),
    purgeStopped: db.prepare('DELETE FROM sessions WHERE stopped_at_ms < ?'),
    purgeWaits: db.prepare(`DELETE FROM waits WHERE state = 'ended' AND ended_at_ms < ?`),
    purgeAnswersOf: db.prepare(`DELETE FROM answers WHERE grant_id IN
      (SELECT id FROM grants WHERE state = 'ended' AND ended_at_ms < @before
       UNION ALL SELECT id FROM waits WHERE state = 'ended' AND ended_at_ms < @before)`),
    purge: db.prepare(`DELETE FROM grants WHERE state = 'ended' AND ended_at_ms < ?`),
    count: db.prepare('UPDATE batches SET count = count + 1'),
    overtake: db.prepare('UPDATE batches SET count = max(count, ?)'),
    purgeAnswers: db.prepare('DELETE FROM answers WHERE answered_at_ms < ?'),
  };
  const keepAnswer = (answer: AnswerRow | undefined) => answer && statement.keepAnswer.run(answer);
  const withdrawAnswers = ({ id, expiresAtMs, endCause }: ChangedRow) =>
    statement.withdrawAnswers.run({ id, expiresAtMs, endCause });

  const write = (one: Write): boolean => {
    switch (one.kind) {
      case 'insert':
        statement.insert.run(...one.row, 'none');
        keepAnswer(one.answer);
        return true;
      case 'wait':
        statement.wait.run(one.row);
        keepAnswer(one.answer);
        return true;
      case 'grantWait':
        if (statement.takeWait.run(one.id).changes === 0) return false;
        statement.insert.run(...one.row, 'waiting');
        statement.grantAnswer.run(one.expiresAtMs, one.id);
        return true;
      case 'endWait':
        return statement.endWait.run(one.row).changes > 0;
      case 'rewait':
        for (const { id, waitsUntilNs } of one.ends) statement.rewait.run(one.bootId, waitsUntilNs, id);
        return true;
      case 'extend': {
        const isExtended = statement.extend.run({ ...one.row, fromNs: one.fromNs }).changes > 0;
        if (isExtended) keepAnswer(one.answer);
        return isExtended;
      }
      case 'end':
      case 'lower':
      case 'hold':
      case 'resume': {
        const isChanged = statement[one.kind].run(one.row).changes > 0;
        if (isChanged) withdrawAnswers(one.row);
        return isChanged;
      }
      case 'reopen':
        for (const { id, expiresAtNs } of one.ends) statement.reopen.run(one.bootId, expiresAtNs, id);
        return true;
      case 'unconfirm':
        return statement.unconfirm.run().changes > 0;
      case 'rebind':
        for (const row of one.unbound) {
          statement.unbind.run(row);
          statement.keepUnbound.run(row);
        }
        for (const row of one.bound) statement.bind.run(row);
        for (const row of one.confirmed) statement.confirm.run(row);
        for (const row of one.over) statement[row.stoppedAtMs === null ? 'forgetSession' : 'stopSession'].run(row);
        for (const row of one.sessions) statement.putSession.run(row);
        for (const row of one.restarts) statement.restart.run(row);
        return true;
      case 'purge':
        statement.purgeAnswers.run(one.forgottenBeforeMs);
        statement.purgeStopped.run(one.forgottenBeforeMs);
        statement.purgeUnbound.run(one.endedBeforeMs);
        statement.purgeAnswersOf.run({ before: one.endedBeforeMs });
        statement.purgeWaits.run(one.endedBeforeMs);
        return statement.purge.run(one.endedBeforeMs).changes > 0;
      case 'overtake':
        return statement.overtake.run(one.batches).changes > 0;
    }
  };
  // Immediate: who waits for another connection waits at the beginning, and not with half of it done.
  const together = db.transaction((batch: readonly Write[]) => {
    statement.count.run();
    return batch.map(write);
  }).immediate;
  return eachAloneIfNeeded(together);
}
