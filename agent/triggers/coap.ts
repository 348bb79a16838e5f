/**
 * Exchanges of CoAP (RFC 7252): each brings one trigger to one device by a
 * confirmable POST, sends it again while the device is silent, and ends with
 * what became of it.
 *
 *   begin → sent ── empty ACK ──→ heard ── response, or none in time ─→ over
 *             └── response, RST, silence to the end, or given up ─────→ over
 *
 * One device has one exchange at a time (4.7, NSTART 1); what comes for it
 * meanwhile waits behind. What a device says counts for its own exchange
 * alone: it must come from the address and port that was asked, and name the
 * message, or the token; so no device answers for another.
 *
 * A message id must not come again at one device within EXCHANGE_LIFETIME
 * (247 s, 4.4), or the device takes the new message for the old one and
 * acknowledges what it never saw. So it is the time, in steps of 4 ms: it
 * comes again after 262 s, whoever is asked, over restarts too, and nothing
 * has to be remembered but that a device begins one exchange in a step.
 *
 * An empty ACK says that the device has the trigger; the response tells what
 * it thinks of it. Where none comes, the ACK stands: to send once more what the
 * device has said it has would cost its battery.
 *
 * Pure: given clock, random source and a way to send. Whoever owns it calls
 * `pass` every TICK_MS unless it `isIdle`. Bounded in memory: no more
 * exchanges than it was told; what is over is kept until it would have been due.
 */
import { type Endpoint, parseAddress } from '../core/net.ts';
import { type Clock, monotonicMs, type Random } from '../core/ports.ts';
import { type CoapMessage, emptyOf, PAYLOAD_MOST, postOf, readMessage } from './coap-message.ts';
import type { DeliveryOutcome } from './delivery.ts';

/** RFC 7252, 4.8. */
const ACK_TIMEOUT_MS = 2_000;
const ACK_RANDOM_FACTOR = 1.5;
const MAX_RETRANSMIT = 4;
/**
 * From an empty ACK on. A device that answers within some seconds can send a
 * response that gets lost again, three times (4.8: 14 to 21 s after the first);
 * what comes next for it waits as long.
 */
const RESPONSE_MS = 30_000;

export const TICK_MS = 50;
/** 65,536 of these are 262 s. */
const MESSAGE_ID_MS = 4;
const TOKEN_BYTES = 8;
/** So many resets go out in a second, to all devices together. */
const RESETS_PER_SECOND = 100;

export interface CoapParts {
  readonly clock: Pick<Clock, 'monotonicNs'>;
  readonly random: Pick<Random, 'bytes' | 'integer'>;
  /** Sends a datagram, unless it is given up before it can; false: it did not leave this host. Never fails. */
  readonly send: (to: Endpoint, datagram: Buffer, signal?: AbortSignal) => Promise<boolean>;
  /** The resource that takes triggers, segment by segment. */
  readonly path: readonly string[];
  /** The most exchanges, those that wait behind another one included. */
  readonly most: number;
}

interface Exchange {
  readonly to: Endpoint;
  readonly payload: Uint8Array;
  readonly signal: AbortSignal;
  readonly over: (outcome: DeliveryOutcome) => void;
  readonly giveUp: () => void;
  state: 'waits' | 'sent' | 'heard' | 'over';
  messageId: number;
  token: string;
  /** How often it was sent again. */
  again: number;
  timeoutMs: number;
  /** Whether it left this host at least once. */
  left: boolean;
}

/** What a device has: its exchange, and those that wait. */
interface Line {
  /** Over and still here: it began in this step of message ids, in which no other may. */
  current: Exchange;
  readonly behind: Exchange[];
}

export class CoapExchanges {
  readonly #parts: CoapParts;
  /** By the device's address. */
  readonly #lines = new Map<string, Line>();
  /** What is to be done, by the tick in which it is due. */
  readonly #due = new Map<number, (() => void)[]>();
  #tick: number;
  #size = 0;
  #resets = RESETS_PER_SECOND;
  #resetsAtMs: number;

  constructor(parts: CoapParts) {
    this.#parts = parts;
    this.#resetsAtMs = this.#nowMs();
    this.#tick = this.#tickOf(this.#resetsAtMs);
  }

  get size(): number {
    return this.#size;
  }

  /** Nothing is ever due, unless something begins. */
  get isIdle(): boolean {
    return this.#due.size === 0;
  }

  get room(): number {
    return this.#parts.most - this.#size;
  }

  /** Brings a payload to a device. `signal` gives up: no more is sent. */
  begin(to: Endpoint, payload: Uint8Array, signal: AbortSignal): Promise<DeliveryOutcome> {
    if (payload.length > PAYLOAD_MOST) return Promise.resolve('rejected');
    if (this.room <= 0 || signal.aborted) return Promise.resolve('notSent');
    return new Promise((over) => {
      const exchange: Exchange = {
        ...{ to, payload, signal, over },
        ...{ state: 'waits', messageId: 0, token: '', again: 0, timeoutMs: 0, left: false },
        giveUp: () => this.#end(exchange, outcomeSoFar(exchange)),
      };
      signal.addEventListener('abort', exchange.giveUp, { once: true });
      this.#size += 1;
      const line = this.#lines.get(to.address.text);
      if (line) line.behind.push(exchange);
      else {
        this.#lines.set(to.address.text, { current: exchange, behind: [] });
        this.#start(exchange);
      }
    });
  }

  /** A datagram has come. False: it is of no exchange. Never throws. */
  arrived(address: string, port: number, datagram: Buffer): boolean {
    const message = readMessage(datagram);
    if (!message) return false;
    const current = this.#lines.get(address)?.current;
    const isOfIt = current !== undefined && current.to.port === port && current.state !== 'over';
    if (isOfIt && this.#hear(current, message)) return true;
    // It has been answered already, or is nothing of ours: the device is not to go on sending it (4.2).
    const sender = message.type === 'confirmable' ? parseAddress(address) : undefined;
    if (sender && this.#mayReset()) this.#answer({ address: sender, port }, 'reset', message.messageId);
    return false;
  }

  /** Does what is due. */
  pass(): void {
    const now = this.#tickOf(this.#nowMs());
    for (; this.#tick <= now && this.#due.size > 0; this.#tick += 1) {
      const due = this.#due.get(this.#tick);
      this.#due.delete(this.#tick);
      for (const act of due ?? []) act();
    }
  }

  #start(exchange: Exchange): void {
    const { random, path } = this.#parts;
    const token = random.bytes(TOKEN_BYTES);
    const messageId = this.#messageId();
    const datagram = postOf(messageId, token, path, exchange.payload);
    Object.assign(exchange, { state: 'sent', messageId, token: Buffer.from(token).toString('hex') });
    const spread = ACK_TIMEOUT_MS * (ACK_RANDOM_FACTOR - 1);
    exchange.timeoutMs = ACK_TIMEOUT_MS + random.integer(spread + 1);
    this.#transmit(exchange, datagram);
  }

  #transmit(exchange: Exchange, datagram: Buffer): void {
    void this.#parts.send(exchange.to, datagram, exchange.signal).then((left) => {
      if (left) exchange.left = true;
      else if (!exchange.left) this.#end(exchange, 'notSent');
    });
    this.#after(exchange.timeoutMs, () => {
      if (exchange.state !== 'sent') return;
      if (exchange.again === MAX_RETRANSMIT) return this.#end(exchange, 'unanswered');
      exchange.again += 1;
      exchange.timeoutMs *= 2;
      this.#transmit(exchange, datagram);
    });
  }

  /** What a device says to its exchange (4.2, 5.2, 5.3.2). False: it says nothing to it. */
  #hear(exchange: Exchange, message: CoapMessage): boolean {
    const { type, messageId, codeClass, isEmpty, token } = message;
    const isOfMessage = messageId === exchange.messageId;
    if (type === 'reset') {
      if (isEmpty && isOfMessage) this.#end(exchange, 'rejected');
      return isEmpty && isOfMessage;
    }
    if (type === 'acknowledgement' && !isOfMessage) return false;
    if (isEmpty) {
      if (type !== 'acknowledgement') return false; // a ping (4.3)
      if (exchange.state === 'sent') {
        exchange.state = 'heard';
        this.#after(RESPONSE_MS, () => this.#end(exchange, 'acknowledged'));
      }
      return true;
    }
    const isResponse = codeClass === 2 || codeClass === 4 || codeClass === 5;
    if (!isResponse || token !== exchange.token) return false;
    if (type === 'confirmable') this.#answer(exchange.to, 'acknowledgement', messageId);
    this.#end(exchange, codeClass === 2 ? 'acknowledged' : 'rejected');
    return true;
  }

  #end(exchange: Exchange, outcome: DeliveryOutcome): void {
    const { state, to, signal, over, giveUp, messageId } = exchange;
    if (state === 'over') return;
    exchange.state = 'over';
    signal.removeEventListener('abort', giveUp);
    this.#size -= 1;
    over(outcome);
    const line = this.#lines.get(to.address.text);
    if (!line) return;
    if (line.current !== exchange) line.behind.splice(line.behind.indexOf(exchange), 1);
    else if (messageId === this.#messageId()) this.#after(TICK_MS, () => this.#next(to.address.text, line));
    else this.#next(to.address.text, line);
  }

  #next(address: string, line: Line): void {
    const next = line.behind.shift();
    if (!next) {
      this.#lines.delete(address);
      return;
    }
    line.current = next;
    this.#start(next);
  }

  #after(ms: number, act: () => void): void {
    const nowMs = this.#nowMs();
    if (this.#due.size === 0) this.#tick = this.#tickOf(nowMs);
    const tick = this.#tickOf(nowMs + ms - 1) + 1;
    const due = this.#due.get(tick);
    if (due) due.push(act);
    else this.#due.set(tick, [act]);
  }

  #mayReset(): boolean {
    const nowMs = this.#nowMs();
    const earned = ((nowMs - this.#resetsAtMs) * RESETS_PER_SECOND) / 1_000;
    this.#resets = Math.min(RESETS_PER_SECOND, this.#resets + earned);
    this.#resetsAtMs = nowMs;
    if (this.#resets < 1) return false;
    this.#resets -= 1;
    return true;
  }

  #answer(to: Endpoint, type: 'acknowledgement' | 'reset', messageId: number): void {
    void this.#parts.send(to, emptyOf(type, messageId));
  }

  #messageId(): number {
    return Math.floor(this.#nowMs() / MESSAGE_ID_MS) & 0xffff;
  }

  #tickOf(ms: number): number {
    return Math.floor(ms / TICK_MS);
  }

  #nowMs(): number {
    return monotonicMs(this.#parts.clock);
  }
}

/** What is known of an exchange that is given up. */
function outcomeSoFar({ state, left }: Exchange): DeliveryOutcome {
  if (state === 'heard') return 'acknowledged';
  return left ? 'unanswered' : 'notSent';
}
