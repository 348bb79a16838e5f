/**
 * The port between the life of a trigger and the way it takes to a device: who
 * delivers knows nothing of queues, validity and records, and who keeps them
 * knows nothing of CoAP and sockets.
 */
import type { InnerAddress } from '../core/words.ts';

export interface Delivery {
  /** Sends one trigger to a device's inner address. Never throws. Resolves with what became of it. */
  deliver(
    to: { readonly inner: InnerAddress; readonly port: number; readonly sourcePort?: number },
    payload: Uint8Array,
    signal: AbortSignal,
  ): Promise<DeliveryOutcome>;
  /** How many more it would begin now. */
  readonly room: number;
}

/**
 * acknowledged: the device said that it has it. sent: it left, and no more is
 * known. rejected: the device would not have it. unanswered: all that could be
 * sent was, and the device said nothing. notSent: it did not leave this host.
 */
export type DeliveryOutcome = 'acknowledged' | 'sent' | 'rejected' | 'unanswered' | 'notSent';
