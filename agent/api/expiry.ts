/**
 * When certificates and revocation lists in force end, and the alarms about
 * it: ahead of time, once a day each; and at once, but once, when a list
 * cannot be used, since its CA's clients are refused from then on.
 *
 * Ahead is 14 days for a certificate and 24 hours for a list, and never more
 * than the last quarter of its life, so that what lives a week or a day by
 * intent does not alarm all the time.
 */
import type { Clock, Log } from '../core/ports.ts';
import { listTrouble, type NamedCa, type Validity, validityOf, within } from './authorities.ts';
import type { Trust } from './tls.ts';

type Kind = 'server' | 'clientCa' | 'crl';

/** What ends, and when. */
interface Ending {
  readonly kind: Kind;
  /** `api`, or the client CA as agent.yaml names it. */
  readonly name: string;
  readonly file: string;
  /** Of what ends first, where the file holds several. Absent: the file cannot be read. */
  readonly valid?: Validity;
  /** Why it is of no use now. */
  readonly trouble?: string;
}

/** A certificate or list as the status shows it. */
export interface CertificateStatus {
  readonly name: string;
  readonly kind: Kind;
  readonly notAfter?: string;
  /** Of a list. */
  readonly nextUpdate?: string;
  readonly usable: boolean;
  /** Whole days until the end, below 0 after it; 0 where there is no telling. */
  readonly daysLeft: number;
  readonly why?: string;
}

/** How long a certificate or list has left, for the metrics. */
export interface TimeLeft {
  readonly name: string;
  readonly kind: Kind;
  readonly usable: boolean;
  /** Below 0 after the end; 0 where there is no telling. */
  readonly secondsLeft: number;
}

const DAY_MS = 86_400_000;
const AHEAD_MS: Readonly<Record<Kind, number>> = { server: 14 * DAY_MS, clientCa: 14 * DAY_MS, crl: DAY_MS };

export function certificateStatus(trust: Trust, nowMs: number): CertificateStatus[] {
  return endingsOf(trust, nowMs).map((ending) => {
    const { name, kind, valid, trouble } = ending;
    return {
      name,
      kind,
      ...(valid && { [kind === 'crl' ? 'nextUpdate' : 'notAfter']: new Date(valid.toMs).toISOString() }),
      usable: trouble === undefined,
      daysLeft: Math.floor(leftMs(ending, nowMs) / DAY_MS),
      ...(trouble !== undefined && { why: trouble }),
    };
  });
}

export function timesLeft(trust: Trust, nowMs: number): TimeLeft[] {
  return endingsOf(trust, nowMs).map((ending) => ({
    name: ending.name,
    kind: ending.kind,
    usable: ending.trouble === undefined,
    secondsLeft: leftMs(ending, nowMs) / 1000,
  }));
}

export class ExpiryAlarms {
  readonly #log: Log;
  readonly #clock: Clock;
  /** When what ends soon was last told of. */
  readonly #toldMs = new Map<string, number>();
  /** What is wrong with the lists of a CA, as told. */
  readonly #troubles = new Map<string, string>();

  constructor(log: Log, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
  }

  /** To be called again and again, and after each reload. */
  look(trust: Trust): void {
    const nowMs = this.#clock.nowMs();
    for (const ending of endingsOf(trust, nowMs)) {
      if (ending.kind === 'crl') this.#tellOfList(ending);
      this.#tellOfEnd(ending, nowMs);
    }
  }

  #tellOfList({ name, file, trouble }: Ending): void {
    if (trouble === this.#troubles.get(name)) return;
    if (trouble === undefined) {
      this.#troubles.delete(name);
      this.#log.info({ clientCa: name, file }, 'crlUsable');
      return;
    }
    this.#troubles.set(name, trouble);
    this.#log.error({ clientCa: name, file, cause: trouble }, 'crlUnusable');
  }

  #tellOfEnd({ kind, name, file, valid }: Ending, nowMs: number): void {
    if (!valid) return;
    const ahead = Math.min(AHEAD_MS[kind], (valid.toMs - valid.fromMs) / 4);
    const key = `${kind} ${name} ${valid.toMs}`;
    if (nowMs < valid.toMs - ahead || nowMs < (this.#toldMs.get(key) ?? Number.NEGATIVE_INFINITY) + DAY_MS) return;
    this.#toldMs.set(key, nowMs);
    const end = new Date(valid.toMs).toISOString();
    this.#log.warn({ kind, name, file, end }, nowMs > valid.toMs ? 'certificateEnded' : 'certificateEndsSoon');
  }
}

function endingsOf({ certificate, file, cas }: Trust, nowMs: number): Ending[] {
  const own = validityOf(certificate);
  const dates = within(own, nowMs) ? {} : { trouble: 'it is not valid at this time' };
  return [
    { kind: 'server', name: 'api', file, valid: own, ...dates },
    ...cas.flatMap((ca) => [endingOf(ca, nowMs), ...listsOf(ca, nowMs)]),
  ];
}

function endingOf({ name, file, authorities, chains }: NamedCa, nowMs: number): Ending {
  const usable = chains.some((chain) => chain.every(({ valid }) => within(valid, nowMs)));
  return {
    kind: 'clientCa',
    name,
    file,
    ...firstToEnd(authorities.map(({ valid }) => valid)),
    ...(!usable && { trouble: 'no chain of its certificates is valid at this time' }),
  };
}

/** The lists of those certificates of a CA that are valid themselves: nobody issues for the others any more. */
function listsOf({ name, authorities, lists }: NamedCa, nowMs: number): Ending[] {
  if (!lists) return [];
  const inDate = authorities.filter(({ valid }) => within(valid, nowMs));
  const troubles = inDate.map((authority) => listTrouble(authority, nowMs));
  const trouble = lists.unusable ?? troubles.find((one) => one !== undefined);
  const valid = firstToEnd(
    inDate.flatMap(({ crl }) => (crl ? { fromMs: crl.thisUpdateMs, toMs: crl.nextUpdateMs } : [])),
  );
  return [{ kind: 'crl', name, file: lists.file, ...valid, ...(trouble !== undefined && { trouble }) }];
}

function firstToEnd(all: readonly Validity[]): { readonly valid?: Validity } {
  const [valid] = [...all].sort((a, b) => a.toMs - b.toMs);
  return valid ? { valid } : {};
}

function leftMs({ valid }: Ending, nowMs: number): number {
  return valid ? valid.toMs - nowMs : 0;
}
