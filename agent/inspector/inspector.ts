/**
 * The agent's side of the child that reads denied packets: starts it, watches
 * it, starts it again, and counts. Nothing that happens to the child, or that
 * it says, ends the agent or holds a grant up.
 *
 * That nothing is seen can mean that nothing was denied, or that the inspector
 * is blind. So it sees to it: when the child is ready and every half minute
 * one marked packet of our own must come back through base, kernel and child.
 */
import type { Log } from '../core/ports.ts';
import { isBaseDenial, type PacketReason, SELF_TEST } from '../core/reasons.ts';
import { type Death, WatchedChild } from '../processes/watched-child.ts';
import type { ChildMessage } from './child-message.ts';

const READY_MS = 10_000;
const TEST_EVERY_MS = 30_000;
const TEST_MS = 3_000;

export interface InspectorParts {
  readonly nflogGroup: number;
  /** Told of every denied packet that arrives, in its order. */
  readonly saw: (reason: PacketReason, bytes: Uint8Array, filter?: string) => void;
  /** Told of every packet that arrives because a staged filter would have met it. */
  readonly wouldHave: (filter: string, bytes: Uint8Array) => void;
  /** Sends the packet of the self-test; says why it could not. */
  readonly sendTest: () => string | undefined;
  readonly log: Log;
}

export interface InspectorReading {
  /** `sees`: the last self-test passed. */
  readonly state: 'starting' | 'sees' | 'blind';
  /** Packets that the gate denied, received from all children so far. */
  readonly received: number;
  /** Packets that the base met: its filters, or would have, and its guard of trigger ports. */
  readonly filtered: number;
  /** What came over the group and was not ours, or could not be read. */
  readonly notOurs: number;
  readonly damaged: number;
  readonly deaths: number;
  /** Self-tests that failed. */
  readonly blindnesses: number;
}

export class Inspector {
  readonly #parts: InspectorParts;
  readonly #child: WatchedChild<ChildMessage>;
  readonly #counts = { received: 0, filtered: 0, notOurs: 0, damaged: 0, deaths: 0, blindnesses: 0 };
  #state: InspectorReading['state'] = 'starting';
  #testing = false;

  constructor(parts: InspectorParts) {
    this.#parts = parts;
    this.#child = new WatchedChild({
      file: new URL('nflog.js', import.meta.url),
      argument: String(parts.nflogGroup),
      onStart: () => this.#child.wait(READY_MS, () => this.#blind('the child did not become ready')),
      onMessage: (message, isLate) => this.#hear(message, isLate),
      onEnd: (death) => this.#ended(death),
      onFault: (why) => parts.log.warn({ why }, 'inspectorChildFault'),
    });
  }

  reading(): InspectorReading {
    return { state: this.#state, ...this.#counts };
  }

  start(): void {
    this.#child.start();
  }

  async stop(): Promise<void> {
    await this.#child.stop(); // it holds nothing that is worth a farewell
  }

  #hear(message: ChildMessage, isLate: boolean): void {
    if (message === 'ready') {
      if (isLate) return;
      this.#parts.log.info({ pid: this.#child.pid }, 'inspectorReady');
      this.#test();
      return;
    }
    this.#counts.notOurs += message.notOurs;
    this.#counts.damaged += message.damaged;
    for (const { reason, filter, bytes } of message.packets) {
      if (reason === SELF_TEST.name) this.#passed();
      else if (reason === 'staged' || isBaseDenial(reason)) {
        this.#counts.filtered += 1; // the base's copies: the gate has not counted them
        if (reason === 'staged') this.#parts.wouldHave(filter ?? '', bytes);
        else this.#parts.saw(reason, bytes, filter);
      } else {
        this.#counts.received += 1;
        this.#parts.saw(reason, bytes);
      }
    }
  }

  #test(): void {
    this.#testing = true;
    const unsent = this.#parts.sendTest();
    if (unsent === undefined) {
      this.#child.wait(TEST_MS, () => this.#blind("the self-test's packet did not come back"));
      return;
    }
    // Not the child's fault, and perhaps it sees: it goes on.
    this.#testing = false;
    this.#report(`the self-test's packet could not be sent: ${unsent}`);
    this.#child.wait(TEST_EVERY_MS, () => this.#test());
  }

  #passed(): void {
    if (!this.#testing) return; // one that comes late
    this.#testing = false;
    if (this.#state !== 'sees') this.#parts.log.info({}, 'inspectorSees');
    this.#state = 'sees';
    this.#child.wait(TEST_EVERY_MS, () => this.#test());
  }

  #blind(why: string): void {
    this.#report(why);
    this.#child.kill();
  }

  #report(why: string): void {
    this.#state = 'blind';
    this.#counts.blindnesses += 1;
    this.#parts.log.error({ why }, 'inspectorBlind');
  }

  #ended(death?: Death): void {
    this.#testing = false;
    if (!death) return;
    if (this.#state === 'sees') this.#state = 'starting';
    this.#counts.deaths += 1;
    this.#parts.log.warn(death, 'inspectorDied');
  }
}
