/**
 * Requests and what was answered to them, so that one which comes again is
 * answered again with the same bytes and carried out once (RFC 5080 2.2.2). A
 * request is known by where it came from (address, port), its Identifier and
 * its Request Authenticator; the same Identifier with another Authenticator is
 * a new request, and nobody waits for the answer to the former any more.
 *
 * Bounded: each client has so many in progress, and so many answers are kept.
 * Forgetting an answer early does no harm: the event is told once more, and
 * telling one twice changes nothing. Pure: given a clock that never goes back.
 */

/** An answer is kept for as long as a NAS may repeat its request for want of it. */
const KEPT_MS = 30_000;
/** So many at most are recent; there may be as many former ones. */
const ANSWERS_RECENT = 65_536;
const IN_PROGRESS_PER_CLIENT = 1_024;

export interface Exchange {
  readonly key: string;
  readonly client: string;
  readonly authenticator: Buffer;
}

interface Answered extends Exchange {
  readonly answer: Buffer;
  readonly untilMs: number;
}

/** What a request is: a new one, one of too many, or one that came before. */
export type Arrival = { readonly begun: Exchange } | { readonly answer: Buffer } | 'inProgress' | 'tooManyInProgress';

export class Exchanges {
  readonly #inProgress = new Map<string, Exchange>();
  /** By client, also of requests that were replaced by newer ones. */
  readonly #load = new Map<string, number>();
  /**
   * Answers in two generations, so that forgetting costs nothing: when the
   * recent ones are full or old enough they become the former ones, and those
   * are gone. (Taking the oldest out of one map would step over all that were
   * taken out before.)
   */
  #recent = new Map<string, Answered>();
  #former = new Map<string, Answered>();
  /** When the first of the recent ones ends. */
  #firstEndsMs = 0;

  /** Takes a request; `key` names source, port and Identifier. What is begun must be ended. */
  arrive(key: string, client: string, authenticator: Buffer, nowMs: number): Arrival {
    if (this.#inProgress.get(key)?.authenticator.equals(authenticator)) return 'inProgress';
    const before = this.#recent.get(key) ?? this.#former.get(key);
    if (before && before.untilMs > nowMs && before.authenticator.equals(authenticator))
      return { answer: before.answer };
    const load = this.#load.get(client) ?? 0;
    if (load >= IN_PROGRESS_PER_CLIENT) return 'tooManyInProgress';
    this.#load.set(client, load + 1);
    this.#recent.delete(key);
    this.#former.delete(key);
    const begun = { key, client, authenticator: Buffer.from(authenticator) };
    this.#inProgress.set(key, begun);
    return { begun };
  }

  /** Ends an exchange, with an answer or without. Whether somebody still waits for it. */
  end(exchange: Exchange, answer: Buffer | undefined, nowMs: number): boolean {
    const load = (this.#load.get(exchange.client) ?? 1) - 1;
    if (load > 0) this.#load.set(exchange.client, load);
    else this.#load.delete(exchange.client);
    if (this.#inProgress.get(exchange.key) !== exchange) return false;
    this.#inProgress.delete(exchange.key);
    if (answer) this.#keep({ ...exchange, answer, untilMs: nowMs + KEPT_MS });
    return true;
  }

  /** Of all clients together. */
  get inProgress(): number {
    let sum = 0;
    for (const load of this.#load.values()) sum += load;
    return sum;
  }

  #keep(answered: Answered): void {
    if (this.#recent.size >= ANSWERS_RECENT || answered.untilMs >= this.#firstEndsMs + KEPT_MS) {
      this.#former = this.#recent;
      this.#recent = new Map();
      this.#firstEndsMs = answered.untilMs;
    }
    this.#recent.set(answered.key, answered);
  }
}
