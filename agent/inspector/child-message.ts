/** What the child (nflog.ts) says to the agent (inspector.ts), over their channel. */
import type { CopyReason } from '../core/reasons.ts';

export interface CopiedPacket {
  readonly reason: CopyReason;
  /** The filter that met it. */
  readonly filter?: string;
  /** From the IP header on, at most the base's snaplen. */
  readonly bytes: Uint8Array;
}

export type ChildMessage =
  /** The group is open. */
  | 'ready'
  | {
      readonly packets: readonly CopiedPacket[];
      /** Messages of the group with a prefix that is none of ours. */
      readonly notOurs: number;
      readonly damaged: number;
    };
