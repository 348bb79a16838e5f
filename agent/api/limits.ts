/**
 * How much and how long the API lets a peer take: every buffer has a size and
 * every wait an end, so that no peer costs more by being slow or large than by
 * asking well. Not configurable: whoever needs more has another problem; tests
 * shorten the times.
 */

export interface ApiLimits {
  readonly bodyBytes: number;
  readonly headerBytes: number;
  readonly handshakeMs: number;
  /** From the first byte (on a new connection: from its start) to the end of the header. */
  readonly headerMs: number;
  /** The same to the end of the body. */
  readonly requestMs: number;
  /** How long a connection may idle. A full handshake costs as much as 15 grants, so not too short. */
  readonly idleMs: number;
  readonly connections: number;
  readonly connectionsPerAddress: number;
  /** What is being answered at a stop has this long to end. */
  readonly closeMs: number;
}

export const API_LIMITS: ApiLimits = {
  bodyBytes: 16_384,
  headerBytes: 8_192,
  handshakeMs: 5_000,
  headerMs: 5_000,
  requestMs: 10_000,
  idleMs: 60_000,
  connections: 1_024,
  connectionsPerAddress: 128,
  closeMs: 2_000,
};
