/**
 * Who is asking: the identity of a peer, from its certificate and the address
 * it comes from, and from nothing else in the request.
 *
 * The handshake (RFC 8446 4.4.2, with `requestCert`) has proved that the peer
 * holds the key and that its chain ends at a named CA, unrevoked. What is
 * judged here is judged again on every request, since a connection or a
 * resumed session (RFC 8446 2.2) outlives the moment it was proved at: dates,
 * use, issuer, role, source. A resumed session brings the leaf alone, so the
 * issuer is found by verifying the leaf against the named CAs' certificates,
 * never by the chain the peer sent.
 *
 * Invariants: what cannot be read names nobody; two named CAs for one leaf are
 * no CA; the facts of a certificate may be kept, a judgement never is.
 */
import { createHash, type X509Certificate } from 'node:crypto';
import { type Address, parseAddress } from '../core/net.ts';
import type { RefusalReason } from '../core/reasons.ts';
import type { MtcUserName, ServerName } from '../core/words.ts';

/** An MTC server as the use cases know it: a name, and where this request came from. */
export interface ServerIdentity {
  readonly role: 'server';
  readonly name: ServerName;
  readonly requestAddress: Address;
}

/** What policy is asked: whose certificate is this? */
interface CertificateFacts {
  /** URIs of the subjectAltName, as they stand there. */
  readonly uris: readonly string[];
  /** SHA-256 of the SubjectPublicKeyInfo in DER, lower-case hex. */
  readonly spkiSha256: string;
  /** The named CA that issued it. */
  readonly issuer: string;
}

type Identified =
  | { readonly role: 'server'; readonly name: ServerName }
  | { readonly role: 'mtcUser'; readonly name: MtcUserName };

type Identify = (facts: CertificateFacts) => Identified | 'certificateUnknown' | 'certificateAmbiguous';

/** What identity rests on beside the certificate; answers with the policy in force now. */
export interface IdentityPolicy {
  readonly identify: Identify;
  /** Whether this server's requests may come from this address. */
  readonly sourceAllowed: (server: ServerName, from: Address) => boolean;
}

/** A client CA as agent.yaml names it: roots and intermediates, in one bundle. */
export interface NamedCa {
  readonly name: string;
  readonly certificates: readonly X509Certificate[];
}

/** What a leaf says; the same for as long as the connection lasts. */
export interface PeerFacts {
  readonly uris: readonly string[] | 'unreadable';
  readonly spkiSha256: string;
  /** Names of the CAs that issued it, and when those certificates are valid. One is right, all else is not. */
  readonly issuers: readonly { readonly name: string; readonly valid: Validity }[];
  readonly valid: Validity;
  readonly forClients: boolean;
}

interface Validity {
  readonly fromMs: number;
  readonly toMs: number;
}

/** Why a peer is nobody. */
export interface NotIdentified {
  readonly reason: RefusalReason;
  readonly why: string;
}

/** id-kp-clientAuth (RFC 5280 4.2.1.12). */
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';

/** The facts of a peer's leaf certificate. Verifies signatures: once a connection, not once a request. */
export function readFacts(leaf: X509Certificate, cas: readonly NamedCa[]): PeerFacts {
  return {
    uris: readUris(leaf.subjectAltName),
    spkiSha256: createHash('sha256')
      .update(leaf.publicKey.export({ type: 'spki', format: 'der' }))
      .digest('hex'),
    issuers: cas.flatMap(({ name, certificates }) => {
      const issuer = certificates.find((ca) => leaf.checkIssued(ca) && leaf.verify(ca.publicKey));
      return issuer ? [{ name, valid: validityOf(issuer) }] : [];
    }),
    valid: validityOf(leaf),
    // An absent extension allows every use (RFC 5280); here it must be said.
    forClients: !leaf.ca && (leaf.keyUsage ?? []).includes(CLIENT_AUTH),
  };
}

/** Who this is, now; the steps in order, each with its own reason. */
export function identifyServer(
  peer: PeerFacts,
  remote: string | undefined,
  policy: IdentityPolicy,
  nowMs: number,
): ServerIdentity | NotIdentified {
  if (!within(peer.valid, nowMs)) return { reason: 'certificateExpired', why: validityText(peer.valid) };
  if (!peer.forClients) return { reason: 'certificateWrongUse', why: 'no extended key usage clientAuth' };
  if (peer.uris === 'unreadable') return { reason: 'certificateUnknown', why: 'its subjectAltName cannot be read' };

  const [issuer, second] = peer.issuers;
  if (!issuer) return { reason: 'certificateUnknown', why: 'no certificate of a named client CA has issued it' };
  if (second) {
    return { reason: 'certificateAmbiguous', why: `both client CAs ${issuer.name} and ${second.name} hold its issuer` };
  }
  if (!within(issuer.valid, nowMs)) {
    return { reason: 'certificateExpired', why: `client CA ${issuer.name}: ${validityText(issuer.valid)}` };
  }

  const facts = { uris: peer.uris, spkiSha256: peer.spkiSha256, issuer: issuer.name };
  const found = policy.identify(facts);
  if (typeof found === 'string') {
    return { reason: found, why: `uris [${facts.uris.join(' ')}], sha256 ${facts.spkiSha256}, issuer ${facts.issuer}` };
  }
  if (found.role !== 'server') return { reason: 'certificateUnknown', why: `it is the MTC user ${found.name}'s` };

  // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; parseAddress reads that as IPv4.
  const requestAddress = remote === undefined ? undefined : parseAddress(remote);
  if (!requestAddress || !policy.sourceAllowed(found.name, requestAddress)) {
    return {
      reason: 'sourceNotAllowed',
      why: `${found.name} does not ask from ${remote ?? 'a connection that is gone'}`,
    };
  }
  return { role: 'server', name: found.name, requestAddress };
}

/**
 * The URIs of a subjectAltName, from the text Node makes of it: entries parted
 * by `, `, each `type:value`, a value that holds a comma, quote or control
 * character written as a JSON string. Strict, so that a value cannot pass for
 * an entry: the first character out of place makes the whole unreadable.
 */
export function readUris(subjectAltName: string | undefined): readonly string[] | 'unreadable' {
  const entry = /([A-Za-z][A-Za-z0-9 ]*):("(?:[^"\\]|\\.)*"|[^",]*)(, |$)/y;
  const uris: string[] = [];
  let rest = subjectAltName ?? '';
  while (rest !== '') {
    entry.lastIndex = 0;
    const match = entry.exec(rest);
    if (!match) return 'unreadable';
    const [whole, type, value = '', parted] = match;
    if (type === 'URI') {
      const uri = value.startsWith('"') ? fromJson(value) : value;
      if (uri === undefined) return 'unreadable';
      uris.push(uri);
    }
    rest = rest.slice(whole.length);
    if (rest === '' && parted !== '') return 'unreadable';
  }
  return uris;
}

function fromJson(text: string): string | undefined {
  try {
    return String(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** A date that cannot be read is NaN, which lies within nothing. */
function validityOf(certificate: X509Certificate): Validity {
  return { fromMs: Date.parse(certificate.validFrom), toMs: Date.parse(certificate.validTo) };
}

function within(valid: Validity, nowMs: number): boolean {
  return valid.fromMs <= nowMs && nowMs <= valid.toMs;
}

function validityText(valid: Validity): string {
  const iso = (ms: number) => (Number.isNaN(ms) ? 'unreadable' : new Date(ms).toISOString());
  return `valid from ${iso(valid.fromMs)} to ${iso(valid.toMs)}`;
}
