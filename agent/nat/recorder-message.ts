/** What the agent (nat-record.ts) and the recorder's process (recorder.ts) say to each other, over their channel. */
import type { HeldBy } from './holders.ts';
import type { Mapping } from './mapping.ts';
import type { Bounds } from './record-store.ts';

/** How the recorder is started: the first argument of its command, as JSON. */
export interface RecorderSetup extends Bounds {
  readonly file: string;
  readonly gateway: string;
  readonly bootId: string;
  /** Of events that are not read yet. */
  readonly socketBytes: number;
  /** Prefixes. */
  readonly egress: readonly string[];
  readonly syslog?: { readonly collector: string; readonly transport: 'udp' | 'tcp' };
}

export type ToRecorder =
  | { readonly kind: 'held'; readonly question: number; readonly held: readonly HeldBy[] }
  /** Grants that begin are for the collector; they are on record where grants are until they have ended. */
  | { readonly kind: 'grants'; readonly begun: readonly Mapping[]; readonly ended: readonly Mapping[] }
  | { readonly kind: 'stop' };

export interface RecorderCounts {
  /** Flows that were heard to begin, or found running. */
  readonly begun: number;
  readonly ended: number;
  /** Messages of the kernel that the socket had no room for. */
  readonly lostInKernel: number;
  /** Heard, and given up for want of room: agent or disk did not keep up. */
  readonly givenUp: number;
  /** Messages that the collector did not take. */
  readonly unsent: number;
}

export type FromRecorder =
  /** Its first word. What was left in the log, and what ran before a reboot, may keep it silent for a while. */
  | { readonly kind: 'opening' }
  /** It listens, and what runs is on record. When it was last written before; 0: never. */
  | { readonly kind: 'ready'; readonly lastAliveMs: number }
  | {
      readonly kind: 'who';
      readonly question: number;
      /** Each with the span in which a flow of its began. */
      readonly addresses: readonly Uint8Array[];
      readonly fromMs: readonly number[];
      readonly toMs: readonly number[];
    }
  | {
      readonly kind: 'counts';
      readonly counts: RecorderCounts;
      /** Why nothing can be written: what is heard waits. */
      readonly recordFault: string | undefined;
      readonly collectorFault: string | undefined;
    }
  | {
      readonly kind: 'log';
      readonly level: 'info' | 'warn' | 'error';
      readonly event: 'natEventsLost' | 'natRecordShortened' | 'natRecordUnusable' | 'natRecordNotWritten';
      readonly fields: object;
    };
