/**
 * What the certificates of connected peers say. Signatures are verified once a
 * connection and once a reload, so that a request costs no more than to look
 * at dates and lists.
 *
 * Invariant: facts read under the CAs of before are never judged by those of
 * now.
 */
import type { TLSSocket } from 'node:tls';
import type { NamedCa } from './authorities.ts';
import {
  type IdentityPolicy,
  identifyPeer,
  type NotIdentified,
  type PeerFacts,
  type PeerIdentity,
  readFacts,
  stillPasses,
} from './identity.ts';

/** The CAs of a time, and what was read under them. */
interface Reading {
  readonly cas: readonly NamedCa[];
  readonly facts: WeakMap<TLSSocket, PeerFacts>;
}

export class Peers {
  #reading: Reading;

  constructor(cas: readonly NamedCa[]) {
    this.#reading = { cas, facts: new WeakMap() };
  }

  /** Who is at the other end, now. */
  identify(socket: TLSSocket, policy: IdentityPolicy, nowMs: number): PeerIdentity | NotIdentified {
    const facts = factsOf(socket, this.#reading);
    if (!facts) return { reason: 'certificateUnknown', why: 'the connection is gone' };
    return identifyPeer(facts, policy, nowMs);
  }

  /** Puts other CAs, or other lists of them, in force; answers which connections of before still pass. */
  replace(cas: readonly NamedCa[], nowMs: number): (socket: TLSSocket) => boolean {
    const before = this.#reading;
    const now = { cas, facts: new WeakMap() };
    this.#reading = now;
    return (socket) => {
      const [then, renewed] = [factsOf(socket, before), factsOf(socket, now)];
      return then !== undefined && renewed !== undefined && stillPasses(then, renewed, nowMs);
    };
  }
}

function factsOf(socket: TLSSocket, { cas, facts }: Reading): PeerFacts | undefined {
  const known = facts.get(socket);
  if (known) return known;
  const leaf = socket.getPeerX509Certificate();
  const read = leaf && readFacts(leaf, cas, socket.remoteAddress);
  if (read) facts.set(socket, read);
  return read;
}
