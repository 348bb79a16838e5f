/**
 * A request that is sent again is answered again, and does nothing a second
 * time: a server that did not hear the answer asks once more under the same
 * Idempotency-Key (draft-ietf-httpapi-idempotency-key-header).
 *
 * Invariants:
 * - what answers a key is durable with the grant it is about, in one
 *   transaction: after a crash there is either both or neither;
 * - only what opened or extended a grant, or waits for one, is kept. A refusal changed nothing,
 *   so a retry is judged anew;
 * - an answer given again is the one given then. It decides nothing, opens
 *   nothing and counts against no rate; what became of the grant since, `show`
 *   tells.
 */
import type { Refusal, Refuse } from '../core/refusals.ts';
import type { Asker, GrantId, GrantRequest, Wake } from '../core/words.ts';
import type { Ground } from './ground.ts';
import type { GrantRecord, Retry } from './record.ts';
import type { WaitingRequest } from './waiting-request.ts';

/** How long a key answers. */
export const ANSWERS_KEPT_MS = 24 * 3_600_000;

export class Retries {
  readonly #ground: Ground;
  /** What the requests ask whose answer is not there yet, by server and key. */
  readonly #underWay = new Map<string, string>();

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  /** Acts, unless this server's key has been answered or is being acted on. What is acted on is to be kept with `retry`. */
  async once<Answer extends GrantRecord | WaitingRequest = GrantRecord>(
    who: Asker,
    requestText: () => string,
    refuse: Refuse,
    act: (retry?: Retry) => Promise<Answer | Refusal>,
    waited: (id: GrantId) => Answer | undefined = () => undefined,
  ): Promise<Answer | Refusal | GrantRecord> {
    const { idempotencyKey: key, name: server, correlator } = who;
    if (key === undefined) return act();
    const request = requestText();
    const { store, clock, log } = this.#ground;
    const name = `${server} ${key}`;
    const atMs = clock.nowMs();

    const answer = store.answerOf(server, key, atMs - ANSWERS_KEPT_MS);
    const earlier = answer?.request ?? this.#underWay.get(name);
    if (earlier !== undefined && earlier !== request) {
      return refuse('idempotencyKeyReused', { why: `the key's request was ${earlier}` });
    }
    if (this.#underWay.has(name)) return refuse('idempotencyKeyInUse', { why: 'the first request is under way' });
    const record = answer && store.find(answer.grant);
    if (record) {
      log.info({ grant: record.id, server, correlator }, 'answeredAgain');
      const { endCause: _, endedAtMs: __, ...granted } = record;
      return { ...granted, state: 'live', expiresAtMs: answer.expiresAtMs };
    }

    const asWaited = answer && waited(answer.grant);
    if (asWaited) {
      log.info({ grant: asWaited.id, server, correlator }, 'answeredAgain');
      return asWaited;
    }

    this.#underWay.set(name, request);
    try {
      return await act({ key, request, atMs });
    } finally {
      this.#underWay.delete(name);
    }
  }
}

/** The same text for the same request, and for no other. */
export function textOf(
  { device, applicationServer, protocol, devicePort, durationSeconds, ipFamily, sink }: GrantRequest,
  waitSeconds?: number,
  wake?: Wake,
): string {
  const { address, port } = applicationServer ?? {};
  const remote = address && address !== 'all' ? address.text : address;
  const asked = ['grant', device, remote, port, protocol, devicePort, durationSeconds, ipFamily];
  const waits = waitSeconds === undefined ? [] : ['waits', waitSeconds];
  const wakes = wake === undefined ? [] : ['wakes', wake.port, ...wake.payload];
  return JSON.stringify([...asked, ...waits, ...wakes, ...(sink === undefined ? [] : ['sink', sink])]);
}
