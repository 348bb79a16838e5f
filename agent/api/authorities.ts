/**
 * The client CAs as agent.yaml names them: their certificates, the ways from
 * an issuer up to a root, and what their revocation lists say.
 *
 * One judge of revocation, here and not in the handshake: OpenSSL looks at
 * lists in a full handshake only, wants one of every CA as soon as it has any,
 * and refuses without a word that the peer could read. So the handshake proves
 * key and chain, and every request is judged by the lists of its own CA.
 *
 * Invariants: a CA that names a list is never judged without it. A revocation
 * that is known counts even where the list that says so is out of date. CAs
 * that cannot be read are a fault; a list that cannot be used is a state, in
 * which that CA's clients are refused (`revocationUnknown`) and those of
 * others are not. (RFC 5280 6.1, 6.3)
 */
import { createHash, X509Certificate } from 'node:crypto';
import { AgentError } from '../core/errors.ts';
import type { CertificateId } from '../core/words.ts';
import { type Crl, type Crls, nameOf, readCrls, serialOf } from './crl.ts';
import { blocksOf } from './pem.ts';

/** A file of the operator's, as read. */
export interface ReadFile {
  readonly file: string;
  readonly bytes: Buffer;
}

/** A client CA as agent.yaml names it: roots and intermediates in one file. */
export interface CaMaterial {
  readonly name: string;
  readonly certificates: ReadFile;
  /** A list file that could not be read says why. Absent: nothing of this CA is ever revoked. */
  readonly crl?: ReadFile | { readonly file: string; readonly unreadable: string };
}

export interface Validity {
  readonly fromMs: number;
  readonly toMs: number;
}

/** One certificate of a client CA. */
export interface Authority {
  readonly certificate: X509Certificate;
  readonly keySha256: string;
  readonly serial: string;
  readonly valid: Validity;
  readonly crl: Crl | undefined;
}

export interface NamedCa {
  readonly name: string;
  readonly file: string;
  readonly authorities: readonly Authority[];
  /** Every way from one of them up to a root. */
  readonly chains: readonly Chain[];
  /** Its file of lists, where it has one, and why nothing in it can be used. */
  readonly lists?: { readonly file: string; readonly unusable?: string };
}

/** From the issuer of a certificate up to a root, both included. */
export type Chain = readonly [Authority, ...Authority[]];

type RevocationReason = 'certificateRevoked' | 'revocationUnknown';

/** The longest chain, from issuer to root: a root with up to three intermediates. */
const LONGEST_CHAIN = 4;

/** @throws AgentError certificateInvalid where a CA's file cannot be used; never for its lists */
export function readCa({ name, certificates, crl }: CaMaterial): NamedCa {
  const { file } = certificates;
  const invalid = (what: string, cause?: unknown) =>
    new AgentError('certificateInvalid', `client CA ${name}: ${file}: ${what}`, { cause });
  let read: X509Certificate[];
  try {
    read = blocksOf(certificates.bytes, 'CERTIFICATE').map((block) => new X509Certificate(block));
  } catch (cause) {
    throw invalid((cause as Error).message, cause);
  }
  for (const certificate of read)
    if (!certificate.ca) throw invalid(`${nameOf(certificate)} is not a CA's certificate`);
  const lists = crl && readLists(crl, read);
  const authorities = read.map((certificate) => ({
    certificate,
    keySha256: keySha256Of(certificate),
    serial: serialOf(certificate),
    valid: validityOf(certificate),
    crl: lists?.crls?.get(certificate),
  }));
  const chains = authorities.flatMap((authority) => chainsFrom(authority, authorities));
  const stray = authorities.find((authority) => !chains.some(([issuer]) => issuer === authority));
  if (stray) {
    const name = nameOf(stray.certificate);
    throw invalid(`no chain of at most ${LONGEST_CHAIN} certificates in this file leads from ${name} to a root`);
  }
  return {
    name,
    file,
    authorities,
    chains,
    ...(lists && { lists: { file: lists.file, ...(lists.unusable !== undefined && { unusable: lists.unusable }) } }),
  };
}

function readLists(
  crl: NonNullable<CaMaterial['crl']>,
  cas: readonly X509Certificate[],
): { readonly file: string; readonly unusable?: string; readonly crls?: Crls } {
  const { file } = crl;
  if ('unreadable' in crl) return { file, unusable: crl.unreadable };
  try {
    return { file, crls: readCrls(crl.bytes, cas) };
  } catch (cause) {
    return { file, unusable: (cause as Error).message };
  }
}

/** Every way from a certificate up to a root of this CA; none where it has not issued it. */
export function chainsOf(leaf: X509Certificate, { authorities, chains }: NamedCa): Chain[] {
  const issuers = authorities.filter((ca) => hasIssued(ca, leaf));
  return chains.filter(([issuer]) => issuers.includes(issuer));
}

function chainsFrom(issuer: Authority, among: readonly Authority[], below?: Chain): Chain[] {
  const chain: Chain = below ? [...below, issuer] : [issuer];
  if (hasIssued(issuer, issuer.certificate)) return [chain];
  if (chain.length === LONGEST_CHAIN) return [];
  return among
    .filter((ca) => !chain.includes(ca) && hasIssued(ca, issuer.certificate))
    .flatMap((ca) => chainsFrom(ca, among, chain));
}

function hasIssued({ certificate }: Authority, below: X509Certificate): boolean {
  return below.checkIssued(certificate) && below.verify(certificate.publicKey);
}

/** What the lists of its CA say of a certificate with this serial number below this chain; undefined: it is good. */
export function revocationOf(
  serial: string,
  chain: Chain,
  { name, lists }: NamedCa,
  nowMs: number,
): { readonly reason: RevocationReason; readonly why: string } | undefined {
  if (!lists) return undefined;
  const by = listedBy(serial, chain);
  if (by)
    return { reason: 'certificateRevoked', why: `it, or a CA above it, is on the list of ${nameOf(by.certificate)}` };
  const unusable =
    lists.unusable ?? chain.map((authority) => listTrouble(authority, nowMs)).find((trouble) => trouble !== undefined);
  return unusable === undefined
    ? undefined
    : { reason: 'revocationUnknown', why: `client CA ${name}: ${lists.file}: ${unusable}` };
}

/** Whose list has this certificate, or one above it. */
function listedBy(serial: string, chain: Chain): Authority | undefined {
  let judged = serial;
  for (const authority of chain) {
    if (authority.crl?.revoked.has(judged)) return authority;
    judged = authority.serial;
  }
  return undefined;
}

/** Why the list of one certificate of a CA says nothing at this time. */
export function listTrouble({ certificate, crl }: Authority, nowMs: number): string | undefined {
  if (!crl) return `holds no list of ${nameOf(certificate)}`;
  const { thisUpdateMs, nextUpdateMs } = crl;
  if (within({ fromMs: thisUpdateMs, toMs: nextUpdateMs }, nowMs)) return undefined;
  const iso = (ms: number) => (Number.isNaN(ms) ? 'unreadable' : new Date(ms).toISOString());
  return `the list of ${nameOf(certificate)} is valid from ${iso(thisUpdateMs)} to ${iso(nextUpdateMs)}`;
}

/** What names a certificate in the record of a grant, so that it can be judged when nobody shows it any more. */
export function certificateId(serial: string, [issuer]: Chain): CertificateId {
  return `${issuer.keySha256}:${serial}` as CertificateId;
}

/** Whether a certificate of a record is revoked, or on every way to a root one above it is. */
export function isRevoked(id: CertificateId, cas: readonly NamedCa[]): boolean {
  const [issuerKey, serial = ''] = id.split(':');
  let isKnown = false;
  for (const { chains } of cas) {
    for (const chain of chains) {
      if (chain[0].keySha256 !== issuerKey) continue;
      if (!listedBy(serial, chain)) return false;
      isKnown = true;
    }
  }
  return isKnown;
}

/** SHA-256 of the SubjectPublicKeyInfo in DER, lower-case hex. */
export function keySha256Of({ publicKey }: X509Certificate): string {
  return createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

/** A date that cannot be read is NaN, which lies within nothing. */
export function validityOf(certificate: X509Certificate): Validity {
  return { fromMs: Date.parse(certificate.validFrom), toMs: Date.parse(certificate.validTo) };
}

export function within({ fromMs, toMs }: Validity, nowMs: number): boolean {
  return fromMs <= nowMs && nowMs <= toMs;
}
