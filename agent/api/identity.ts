/**
 * Who is asking: the identity of a peer, from its certificate and the address
 * it comes from, and from nothing else in the request.
 *
 * The handshake (RFC 8446 4.4.2, with `requestCert`) has proved that the peer
 * holds the key and that its chain ends at a named CA. What is judged here is
 * judged again on every request, since a connection or a resumed session
 * (RFC 8446 2.2) outlives the moment it was proved at: dates, use, issuer,
 * revocation, role, source. A resumed session brings the leaf alone, so the
 * issuer is found by verifying the leaf against the named CAs' certificates,
 * never by the chain the peer sent.
 *
 * Invariants: what cannot be read names nobody; two named CAs for one leaf are
 * no CA; the facts of a certificate may be kept, a judgement never is.
 */
import type { X509Certificate } from 'node:crypto';
import { type Address, parseAddress } from '../core/net.ts';
import type { RefusalReason } from '../core/refusals.ts';
import type { CertificateId, MtcUserName, ServerName } from '../core/words.ts';
import {
  type Chain,
  certificateId,
  chainsOf,
  keySha256Of,
  type NamedCa,
  revocationOf,
  type Validity,
  validityOf,
  within,
} from './authorities.ts';
import { nameOf, serialOf } from './crl.ts';
import type { PartySources } from './sources.ts';

/** Who asks, as the use cases know it: a role, a name in it, and where this request came from. */
export type PeerIdentity = Identified & {
  readonly requestAddress: Address;
  /** The certificate it showed. */
  readonly certificate: CertificateId;
  /** SHA-256 of it, in lower-case hex. */
  readonly fingerprint: string;
};

/** What policy is asked: whose certificate is this? */
interface CertificateFacts {
  /** URIs of the subjectAltName, as they stand there. */
  readonly uris: readonly string[];
  /** SHA-256 of the SubjectPublicKeyInfo in DER, lower-case hex. */
  readonly spkiSha256: string;
  /** The named CA that issued it. */
  readonly issuer: string;
}

export type Identified =
  | { readonly role: 'server'; readonly name: ServerName }
  | { readonly role: 'mtcUser'; readonly name: MtcUserName };

/** One name for who shares: a server's own, an MTC user's behind its role, which no name of a server holds. */
export function partyOf({ role, name }: Identified): string {
  return role === 'server' ? name : `mtcUser:${name}`;
}

type Identify = (facts: CertificateFacts) => Identified | 'certificateUnknown' | 'certificateAmbiguous';

/** What identity rests on beside the certificate; answers with the policy in force now. */
export interface IdentityPolicy {
  readonly identify: Identify;
  /** Whether requests of this server or MTC user may come from this address. */
  readonly sourceAllowed: (who: Identified, from: Address) => boolean;
  /** All who may ask, and where their requests come from: what there is to be shared, among whom. */
  readonly parties: () => PartySources;
}

/** What a leaf says, and where it came from; the same for as long as connection and CAs are. */
export interface PeerFacts {
  /** Absent where the connection is gone, or its address cannot be read. */
  readonly from: Address | undefined;
  readonly uris: readonly string[] | 'unreadable';
  readonly spkiSha256: string;
  readonly fingerprint: string;
  readonly serial: string;
  /** Every way from its issuer up to a root. Within one CA they are as good as each other; two CAs are not right. */
  readonly chains: readonly { readonly ca: NamedCa; readonly chain: Chain; readonly certificate: CertificateId }[];
  readonly valid: Validity;
  readonly forClients: boolean;
}

/** Why a peer is nobody. */
export interface NotIdentified {
  readonly reason: RefusalReason;
  readonly why: string;
}

/** id-kp-clientAuth (RFC 5280 4.2.1.12). */
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';

/** The facts of a peer, by its leaf certificate and its address. Verifies signatures: once a connection, not once a request. */
export function readFacts(leaf: X509Certificate, cas: readonly NamedCa[], remote?: string): PeerFacts {
  const serial = serialOf(leaf);
  return {
    // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; parseAddress reads that as IPv4.
    from: remote === undefined ? undefined : parseAddress(remote),
    uris: readUris(leaf.subjectAltName),
    spkiSha256: keySha256Of(leaf),
    fingerprint: leaf.fingerprint256.replaceAll(':', '').toLowerCase(),
    serial,
    chains: cas.flatMap((ca) =>
      chainsOf(leaf, ca).map((chain) => ({ ca, chain, certificate: certificateId(serial, chain) })),
    ),
    valid: validityOf(leaf),
    // An absent extension allows every use (RFC 5280); here it must be said.
    forClients: !leaf.ca && (leaf.keyUsage ?? []).includes(CLIENT_AUTH),
  };
}

/** Who this is, now; the steps in order, each with its own reason. */
export function identifyPeer(peer: PeerFacts, policy: IdentityPolicy, nowMs: number): PeerIdentity | NotIdentified {
  const proved = judgeCertificate(peer, nowMs);
  if ('reason' in proved) {
    // Of a list that cannot be used only those are told whom it would concern.
    const facts = proved.reason === 'revocationUnknown' ? factsOf(peer) : undefined;
    return (facts && nobody(facts, policy.identify(facts))) ?? proved;
  }

  const found = policy.identify(proved);
  if (typeof found === 'string') return nobody(proved, found) as NotIdentified;

  const { from } = peer;
  if (!from || !policy.sourceAllowed(found, from)) {
    const where = from?.text ?? 'a connection that is gone';
    return { reason: 'sourceNotAllowed', why: `${found.name} does not ask from ${where}` };
  }
  return { ...found, requestAddress: from, certificate: proved.certificate, fingerprint: peer.fingerprint };
}

function nobody({ uris, spkiSha256, issuer }: CertificateFacts, found: Identified | RefusalReason) {
  if (typeof found !== 'string') return undefined;
  return { reason: found, why: `uris [${uris.join(' ')}], sha256 ${spkiSha256}, issuer ${issuer}` };
}

function factsOf({ uris, spkiSha256, chains }: PeerFacts): CertificateFacts | undefined {
  const issuer = chains[0]?.ca.name;
  return uris === 'unreadable' || issuer === undefined ? undefined : { uris, spkiSha256, issuer };
}

/** Whether a certificate is worth anything now, whoever's it is. */
function judgeCertificate(
  peer: PeerFacts,
  nowMs: number,
): (CertificateFacts & { readonly certificate: CertificateId }) | NotIdentified {
  if (!within(peer.valid, nowMs)) return { reason: 'certificateExpired', why: validityText(peer.valid) };
  if (!peer.forClients) return { reason: 'certificateWrongUse', why: 'no extended key usage clientAuth' };
  if (peer.uris === 'unreadable') return { reason: 'certificateUnknown', why: 'its subjectAltName cannot be read' };

  const [first] = peer.chains;
  if (!first) return { reason: 'certificateUnknown', why: 'no certificate of a named client CA has issued it' };
  const { ca } = first;
  const other = peer.chains.find((one) => one.ca !== ca);
  if (other) {
    return { reason: 'certificateAmbiguous', why: `both client CAs ${ca.name} and ${other.ca.name} hold its issuer` };
  }
  const wrongs = peer.chains.map(({ chain }) => wrongWith(peer.serial, chain, ca, nowMs));
  if (wrongs.every((wrong) => wrong !== undefined)) {
    const worst = wrongs.find(({ reason }) => reason === 'certificateRevoked') ?? wrongs[0];
    if (worst) return worst;
  }
  return {
    uris: peer.uris,
    spkiSha256: peer.spkiSha256,
    issuer: ca.name,
    certificate: first.certificate,
  };
}

/** Why a chain proves nothing now; undefined where it does. */
function wrongWith(serial: string, chain: Chain, ca: NamedCa, nowMs: number): NotIdentified | undefined {
  const late = chain.find(({ valid }) => !within(valid, nowMs));
  if (!late) return revocationOf(serial, chain, ca, nowMs);
  const why = `client CA ${ca.name}: ${nameOf(late.certificate)}: ${validityText(late.valid)}`;
  return { reason: 'certificateExpired', why };
}

/**
 * Whether what a handshake proved under the CAs of before still holds under
 * those of now: a chain it may have gone by still stands, and the certificate
 * is worth something. Where a list cannot be used the connection stays, for
 * its requests to be told so.
 */
export function stillPasses(before: PeerFacts, now: PeerFacts, nowMs: number): boolean {
  const stood = new Set(before.chains.map(({ chain }) => printOf(chain)));
  if (!now.chains.some(({ chain }) => stood.has(printOf(chain)))) return false;
  const judged = judgeCertificate(now, nowMs);
  return !('reason' in judged) || judged.reason === 'revocationUnknown';
}

function printOf(chain: Chain): string {
  return chain.map(({ certificate }) => certificate.fingerprint256).join(' ');
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

function validityText(valid: Validity): string {
  const iso = (ms: number) => (Number.isNaN(ms) ? 'unreadable' : new Date(ms).toISOString());
  return `valid from ${iso(valid.fromMs)} to ${iso(valid.toMs)}`;
}
