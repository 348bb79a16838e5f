/**
 * What becomes of what a NAS tells by accounting, by name: each is counted by
 * client, and what should not be is told.
 */

export const FINDINGS = {
  applied: 'carried out',
  duplicate: 'known already',
  sessionUnknown: 'a Stop of a session that is not known',
  sessionStopped: 'of a session that was stopped before',
  older: 'older than what was heard before',
  addressTaken: 'a Start took an address from another holder',
  interimOfOthers: 'an Interim-Update of an address that another holds',
  sessionReused: 'a Start of another subscriber under the name of a session that lived',
  identityChanged: 'another subscriber than the session began with',
  identityContradiction: 'IMSI, MSISDN and external identifier are not of one device: bound to none',
  outsidePools: 'an address outside the pools of the client',
  prefixLength: 'an IPv6 prefix of a length that is not taken: 48, 52, 56, 60, 62, 63, 64 or 128',
  realmUnknown: 'neither APN nor address says which realm',
  boundOtherwise: 'an address that the devices file or an operator bound to another',
} as const;

export type Finding = keyof typeof FINDINGS;

const ALARMED: readonly Finding[] = [
  ...(['addressTaken', 'interimOfOthers', 'sessionReused', 'identityChanged', 'identityContradiction'] as const),
  ...(['outsidePools', 'prefixLength', 'realmUnknown', 'boundOtherwise'] as const),
];
/** It will never be made, however often it is repeated. */
const REFUSED: readonly Finding[] = ['outsidePools', 'prefixLength', 'realmUnknown', 'boundOtherwise'];

export function isAlarmed(finding: Finding): boolean {
  return ALARMED.includes(finding);
}

export function isRefused(finding: Finding): boolean {
  return REFUSED.includes(finding);
}

export interface FindingCount {
  readonly client: string;
  readonly finding: Finding;
  readonly count: number;
  /** UTC. */
  readonly lastMs: number;
}

const MINUTE_MS = 60_000;

/** Counts findings by client since the start, and how many came of late. */
export class FindingTally {
  readonly #rows = new Map<string, { -readonly [Key in keyof FindingCount]: FindingCount[Key] }>();
  /** By client: events of the minute that runs, and of the one before. */
  readonly #minutes = new Map<string, { minute: number; now: number; before: number }>();

  add(client: string, finding: Finding, nowMs: number): void {
    const key = `${client} ${finding}`;
    const row = this.#rows.get(key) ?? { client, finding, count: 0, lastMs: nowMs };
    row.count += 1;
    row.lastMs = nowMs;
    this.#rows.set(key, row);
    this.#minuteOf(client, nowMs).now += 1;
  }

  counts(): readonly FindingCount[] {
    return [...this.#rows.values()];
  }

  /** Events of a client in the last whole minute. */
  inLastMinute(client: string, nowMs: number): number {
    return this.#minuteOf(client, nowMs).before;
  }

  #minuteOf(client: string, nowMs: number): { minute: number; now: number; before: number } {
    const minute = Math.floor(nowMs / MINUTE_MS);
    const known = this.#minutes.get(client) ?? { minute, now: 0, before: 0 };
    if (known.minute !== minute) {
      known.before = known.minute === minute - 1 ? known.now : 0;
      known.now = 0;
      known.minute = minute;
    }
    this.#minutes.set(client, known);
    return known;
  }
}
