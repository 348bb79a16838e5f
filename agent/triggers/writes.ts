/**
 * Everything that is written to triggers.db, as values that can be handed to
 * the thread that writes; a batch goes in one transaction.
 */
import type Database from 'better-sqlite3';
import { eachAloneIfNeeded, type Written } from '../core/commits.ts';
import type { TriggerRow } from './rows.ts';

export type TriggerWrite =
  | { readonly kind: 'insert'; readonly row: TriggerRow }
  /** Changes nothing where it is pending no more. */
  | { readonly kind: 'replace'; readonly row: TriggerRow }
  | {
      readonly kind: 'end';
      readonly id: string;
      readonly cause: string;
      readonly endedAtMs: number;
      readonly forgotten: number;
    }
  | { readonly kind: 'forget'; readonly id: string }
  /** Until when many are valid on the clock of a new boot: all or none. */
  | { readonly kind: 'reopen'; readonly bootId: string; readonly ends: readonly [id: string, validUntilNs: bigint][] }
  | { readonly kind: 'purge'; readonly endedBeforeMs: number };

/** Writes batches on a connection of its own. */
export function triggerWriterOn(db: Database.Database): (batch: readonly TriggerWrite[]) => readonly Written[] {
  const statement = {
    insert: db.prepare(`INSERT INTO triggers VALUES (@id, @gateway, @server, @certificate, @correlator, @requestAddress,
      @reference, @device, @mtcUser, @rule, @policyVersion, @port, @sourcePort, @priority, @payload, @features,
      @destination, @collection, @validitySeconds, @acceptedAtMs, @validUntilMs, @bootId, @validUntilNs, 0, 0,
      'none', 'pending', 'accepted', NULL, @grant)`),
    replace: db.prepare(`UPDATE triggers SET previous_state = state, cause = 'replaced', replaced = 1,
      certificate = @certificate, correlator = @correlator, request_address = @requestAddress, reference = @reference,
      mtc_user = @mtcUser, rule = @rule, policy_version = @policyVersion, port = @port, source_port = @sourcePort,
      priority = @priority, payload = @payload, features = @features, destination = @destination,
      collection = @collection,
      validity_seconds = @validitySeconds, valid_until_ms = @validUntilMs, boot_id = @bootId,
      valid_until_ns = @validUntilNs
      WHERE id = @id AND state = 'pending'`),
    end: db.prepare(`UPDATE triggers SET previous_state = state, state = 'ended', cause = @cause,
      ended_at_ms = @endedAtMs, forgotten = @forgotten WHERE id = @id AND state = 'pending'`),
    forget: db.prepare('UPDATE triggers SET forgotten = 1 WHERE id = ?'),
    reopen: db.prepare(`UPDATE triggers SET previous_state = state, cause = 'reopened', boot_id = ?, valid_until_ns = ?
      WHERE id = ? AND state = 'pending'`),
    purge: db.prepare(`DELETE FROM triggers WHERE state = 'ended' AND ended_at_ms < ?`),
  };
  const write = (one: TriggerWrite): boolean => {
    switch (one.kind) {
      case 'insert':
      case 'replace':
        return statement[one.kind].run(one.row).changes > 0;
      case 'end': {
        const { id, cause, endedAtMs, forgotten } = one;
        return statement.end.run({ id, cause, endedAtMs, forgotten }).changes > 0;
      }
      case 'forget':
        return statement.forget.run(one.id).changes > 0;
      case 'reopen':
        for (const [id, validUntilNs] of one.ends) statement.reopen.run(one.bootId, validUntilNs, id);
        return true;
      case 'purge':
        return statement.purge.run(one.endedBeforeMs).changes > 0;
    }
  };
  // Immediate: who waits for another connection waits at the beginning, and not with half of it done.
  return eachAloneIfNeeded(db.transaction((batch: readonly TriggerWrite[]) => batch.map(write)).immediate);
}
