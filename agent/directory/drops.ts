/**
 * Datagrams of RADIUS accounting that come to nothing: why, how often, and
 * when the log says so. They are not answered (RFC 2866 3: silently
 * discarded), so counters and log are all that an operator sees of them.
 */
export const DROPS = {
  unknownClient: 'It came from an address that no client in agent.yaml has.',
  truncated: 'It is shorter than 20 octets, or than its Length.',
  wrongLength: 'Its Length is not from 20 to 4096.',
  notAccounting: 'Its Code is not Accounting-Request.',
  wrongAuthenticator: 'Its Request Authenticator is wrong: have client and gateway the same secret?',
  wrongMessageAuthenticator: 'Its Message-Authenticator is wrong.',
  malformedAttribute: 'An attribute overruns what holds it, or its value is not of its kind.',
  attributeTwice: 'An attribute that may be there once is there again.',
  notUtf8: 'A text is not UTF-8.',
  missingStatusType: 'Acct-Status-Type is missing.',
  unknownStatusType: 'Its Acct-Status-Type is not Start, Stop, Interim-Update, Accounting-On or Accounting-Off.',
  missingSession: 'Acct-Session-Id is missing.',
  tooManyInProgress: 'As many requests of its client as may be are in progress.',
  notNow: 'What it tells could not be carried out now.',
  fault: 'Carrying out what it tells met a fault of ours.',
} as const satisfies Record<string, string>;

export type DropReason = keyof typeof DROPS;

/** Why a datagram is dropped, and at which attribute. */
export interface Drop {
  readonly drop: DropReason;
  readonly attribute?: string;
}

/** A client and a reason have one line of the log in this time. */
const LINE_EVERY_MS = 60_000;

interface Row {
  readonly client: string | undefined;
  readonly reason: DropReason;
  count: number;
  /** Since the last line. */
  leftOut: number;
  nextLineMs: number;
}

/** How often each client met each reason. As large as agent.yaml makes it, whoever sends what. */
export class DropAccount {
  readonly #rows = new Map<string, Row>();

  /**
   * Counts one; `client` is undefined for strangers. Answers how many were
   * left out since the last line where a line is due, else undefined.
   * `nowMs` never goes back.
   */
  count(client: string | undefined, reason: DropReason, nowMs: number): number | undefined {
    const key = `${client ?? ''} ${reason}`;
    const row = this.#rows.get(key) ?? { client, reason, count: 0, leftOut: 0, nextLineMs: nowMs };
    this.#rows.set(key, row);
    row.count += 1;
    if (nowMs < row.nextLineMs) {
      row.leftOut += 1;
      return undefined;
    }
    const { leftOut } = row;
    row.leftOut = 0;
    row.nextLineMs = nowMs + LINE_EVERY_MS;
    return leftOut;
  }

  /** What was ever counted. */
  counts(): { readonly client: string | undefined; readonly reason: DropReason; readonly count: number }[] {
    return Array.from(this.#rows.values(), ({ client, reason, count }) => ({ client, reason, count }));
  }
}
