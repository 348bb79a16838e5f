/**
 * How much and how long the API lets a peer take: every buffer has a size,
 * every wait an end and every crowd a share, so that no peer costs more by
 * being slow, large or many than by asking well. Not configurable: whoever
 * needs more has another problem; tests shorten times and shares.
 *
 * What the numbers rest on was measured: native-notes/performance.md, Admission.
 */

/** What a crowd has in all, and how much of it one may have: the same part for each, within bounds. */
export interface Share {
  readonly all: number;
  readonly least: number;
  readonly most: number;
}

/** Everybody's own part, for so many; it is theirs whatever the others do. */
export function ownPart({ all, least, most }: Share, parties: number): number {
  return Math.min(most, Math.max(least, Math.floor(all / Math.max(1, parties))));
}

/** So many at once, and after that so many a second. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

export interface ConnectionLimits {
  /** Connections of a server of the policy, by where its requests come from. */
  readonly serverPlaces: Share;
  /** Beyond their own part servers take of this, as long as there is some, up to `most`. */
  readonly sparePlaces: number;
  /** Handshakes a second of a server; at once as many as it may have connections. */
  readonly serverHandshakes: Share;
  /** Everybody else, together. What comes from there is refused today whoever it is. */
  readonly strangerPlaces: number;
  readonly strangerHandshakes: Rate;
  /** Of the strangers one address (IPv6: one /64). */
  readonly addressPlaces: number;
  readonly addressHandshakes: Rate;
  /** How long a stranger's connection lives at the most: for one request and its answer. */
  readonly strangerMs: number;
  /** A handshake that has had this long makes room for another, where all places are taken. */
  readonly overtakenMs: number;
}

export interface RequestLimits {
  /** Requests that are worked on at once, of all servers; enough for two groups of commits. */
  readonly atOnce: number;
  /** Requests of a server from the header's end until the answer has left, waiting ones included. */
  readonly underWay: Share;
  /** Requests of one connection that have no whole answer, all but one waiting; a client that sends more is cut. */
  readonly pipelined: number;
  /** The refusal of what is too much is held back for this long: who does not wait to ask again is made to. */
  readonly refusalMs: number;
  /** How long a request waits for its turn. */
  readonly waitMs: number;
}

/** Of answers without an end. */
export interface StreamLimits {
  /** Streams of a party. */
  readonly perParty: Share;
  /** What a reader may leave unread. */
  readonly unreadBytes: number;
  readonly heartbeatMs: number;
}

export interface ApiLimits {
  readonly bodyBytes: number;
  readonly headerBytes: number;
  readonly handshakeMs: number;
  /** From the first byte (on a new connection: from its start) to the end of the header. */
  readonly headerMs: number;
  /** The same to the end of the body. */
  readonly requestMs: number;
  /** From the making of an answer to its last byte leaving: whoever reads slower is cut. */
  readonly answerMs: number;
  /** How long a connection may idle. A full handshake costs as much as several grants, so not too short. */
  readonly idleMs: number;
  /** Handshakes and requests that are begun in one turn of the loop: fewer cost more turns than they spare waiting. */
  readonly begunAtOnce: number;
  readonly connections: ConnectionLimits;
  readonly requests: RequestLimits;
  readonly streams: StreamLimits;
  /** What is being answered at a stop has this long to end. */
  readonly closeMs: number;
}

export const API_LIMITS: ApiLimits = {
  bodyBytes: 16_384,
  headerBytes: 8_192,
  handshakeMs: 5_000,
  headerMs: 5_000,
  requestMs: 10_000,
  answerMs: 20_000,
  idleMs: 60_000,
  begunAtOnce: 8,
  connections: {
    serverPlaces: { all: 1_024, least: 8, most: 128 },
    sparePlaces: 512,
    serverHandshakes: { all: 200, least: 5, most: 50 },
    strangerPlaces: 128,
    strangerHandshakes: { perSecond: 16, burst: 32 },
    addressPlaces: 16,
    addressHandshakes: { perSecond: 2, burst: 8 },
    strangerMs: 10_000,
    overtakenMs: 1_000,
  },
  requests: {
    atOnce: 64,
    underWay: { all: 2_048, least: 16, most: 256 },
    pipelined: 16,
    refusalMs: 250,
    waitMs: 2_000,
  },
  streams: { perParty: { all: 512, least: 4, most: 128 }, unreadBytes: 256 * 1024, heartbeatMs: 15_000 },
  closeMs: 2_000,
};
