/** What the twin (memory.ts) has counted, packets and the bytes of their frames; the gate has its map `counters`. */
import { DENIAL_REASONS, type DenialReason } from '../core/reasons.ts';
import type { GateCounters, PacketCount } from './dataplane.ts';

export const NOTHING: PacketCount = { packets: 0n, bytes: 0n };

export function plus(count: PacketCount, frame: Uint8Array): PacketCount {
  return { packets: count.packets + 1n, bytes: count.bytes + BigInt(frame.length) };
}

export class Tally {
  readonly #counts = new Map<string, PacketCount>();

  add(what: Exclude<keyof GateCounters, 'denied'> | DenialReason, frame: Uint8Array): void {
    this.#counts.set(what, plus(this.#of(what), frame));
  }

  read(): GateCounters {
    const denied = DENIAL_REASONS.map((reason) => [reason, this.#of(reason)]);
    return {
      grantedIn: this.#of('grantedIn'),
      grantedOut: this.#of('grantedOut'),
      passed: this.#of('passed'),
      sampled: this.#of('sampled'),
      errorsCarried: this.#of('errorsCarried'),
      echoesAnswered: this.#of('echoesAnswered'),
      atXdp: this.#of('atXdp'),
      denied: Object.fromEntries(denied) as GateCounters['denied'],
    };
  }

  #of(what: string): PacketCount {
    return this.#counts.get(what) ?? NOTHING;
  }
}
