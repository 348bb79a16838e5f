/**
 * What becomes of one attempt to push: the words between the outbox, which
 * decides when and in which order, and the adapter that sends (post.ts).
 */

/** Where a push goes. */
export interface Destination {
  /** As the URL standard writes it; https. */
  readonly url: string;
  /** The name of the CA file in agent.yaml; absent: the public CAs. */
  readonly ca?: string;
}

/** Why an attempt came to nothing; the texts are for operators: what it means. */
export const PUSH_FAULTS = {
  nameUnknown: 'its name has no address, or the resolver does not answer',
  addressForbidden: 'its name leads to an address that nothing is sent to',
  unreachable: 'no connection',
  tlsFailed: 'TLS failed: its certificate, its name in it, or its version',
  tooSlow: 'no answer in time',
  broken: 'the connection broke off, or the answer is no HTTP',
  redirected: 'it answered with a redirect, which is not followed',
  refused: 'it answered with an error',
  busy: 'it asked to be left alone for a while',
} as const satisfies Record<string, string>;

export type PushFault = keyof typeof PUSH_FAULTS;

export type Outcome =
  | { readonly ok: true; readonly status: number }
  | {
      readonly ok: false;
      readonly fault: PushFault;
      /** What was seen, for the operator. */
      readonly why: string;
      readonly status?: number;
      /** How long it asked to be left alone. */
      readonly retryAfterMs?: number;
    };

/** Sends one message. Never throws; ends in time whatever the receiver does. */
export type Post = (to: Destination, headers: Readonly<Record<string, string>>, body: Uint8Array) => Promise<Outcome>;
