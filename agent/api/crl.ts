/**
 * Certificate revocation lists, as a CA publishes them: PEM (one list or
 * several) or DER.
 *
 * A list that is read wrongly overlooks a revocation, so a file is usable
 * whole or not at all. Each list must be signed by a certificate of the CA it
 * was named for, which may sign lists (RFC 5280 6.3.3 f, g), be complete (no
 * delta, no part: 6.3.3 b, c), hold nothing critical that is not understood
 * (5.2, 5.3), and say when the next one is due (5.1.2.5).
 *
 * The library reads what has a meaning: times, extensions, key usage. It makes
 * a tree of all it is given, at 0.1 to 0.2 ms an entry: the agent would stand
 * still for seconds over a list of 50,000. So a list is taken apart at its
 * outermost elements here, and of an entry only the serial number and critical
 * flags are read (0.4 s for those 50,000).
 */
import { verify, type X509Certificate } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import { AlgorithmIdentifier, type Extension, Extensions, KeyUsage, KeyUsageFlags, Time } from '@peculiar/asn1-x509';
import { blocksOf, isDer } from './pem.ts';

export interface Crl {
  readonly thisUpdateMs: number;
  readonly nextUpdateMs: number;
  /** Serial numbers, in the form that serialOf gives. */
  readonly revoked: ReadonlySet<string>;
}

/** Whose list is whose. */
export type Crls = ReadonlyMap<X509Certificate, Crl>;

/** Signature algorithms by OID, and the digest to name; Ed25519 and Ed448 have theirs built in. None with SHA-1. */
const DIGESTS: Readonly<Record<string, string | null>> = {
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  '1.3.101.112': null,
  '1.3.101.113': null,
};

const DELTA_CRL_INDICATOR = '2.5.29.27';
const KEY_USAGE = '2.5.29.15';

const SEQUENCE = 0x30;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const BOOLEAN = 0x01;
const VERSION = 0xa0;
const CRL_EXTENSIONS = 0xa0;
const CERTIFICATE_EXTENSIONS = 0xa3;

/** The lists of a file, by the certificate that signed each; several may have one key. @throws Error that says what makes it unusable */
export function readCrls(bytes: Buffer, cas: readonly X509Certificate[]): Crls {
  if (bytes.length === 0) throw new Error('is empty');
  const lists = isDer(bytes) ? [bytes] : blocksOf(bytes, 'X509 CRL').map(derOf);
  const crls = new Map<X509Certificate, Crl>();
  for (const der of lists) {
    const { crl, signers } = readCrl(der, cas);
    for (const signer of signers) {
      if (crls.has(signer)) throw new Error(`holds two lists of ${nameOf(signer)}`);
      crls.set(signer, crl);
    }
  }
  return crls;
}

/** A serial number in one form for certificates (as Node writes them) and lists. */
export function serialOf({ serialNumber }: X509Certificate): string {
  return (serialNumber.startsWith('-') ? -BigInt(`0x${serialNumber.slice(1)}`) : BigInt(`0x${serialNumber}`)).toString(
    16,
  );
}

/** A certificate in words for the log: its subject in one line. */
export function nameOf({ subject }: X509Certificate): string {
  return subject.replaceAll('\n', ', ');
}

/** CertificateList (RFC 5280 5.1): the signature first, then what it signs. */
function readCrl(der: Buffer, cas: readonly X509Certificate[]): { crl: Crl; signers: X509Certificate[] } {
  const [outer, ...trailing] = elements(der);
  if (outer?.tag !== SEQUENCE || trailing.length > 0) throw new Error('is no CRL: not one SEQUENCE');
  const [tbs, algorithm, signature, ...more] = elements(outer.content);
  if (tbs?.tag !== SEQUENCE || !algorithm || signature?.tag !== BIT_STRING || more.length > 0) {
    throw new Error('is no CRL: not a list, an algorithm and a signature');
  }

  const fields = elements(tbs.content);
  if (fields[0]?.tag === INTEGER) fields.shift(); // version
  const [innerAlgorithm, issuer, thisUpdate, nextUpdate, ...rest] = fields;
  if (!innerAlgorithm || !issuer || !thisUpdate) throw new Error('is no CRL: too few fields');
  if (!innerAlgorithm.whole.equals(algorithm.whole)) throw new Error('names two signature algorithms');

  const { algorithm: oid } = AsnConvert.parse(algorithm.whole, AlgorithmIdentifier);
  const digest = DIGESTS[oid];
  if (digest === undefined) throw new Error(`is signed with ${oid}, which is not taken`);
  const namesakes = cas.filter((ca) => subjectOf(ca).equals(issuer.whole));
  if (namesakes.length === 0)
    throw new Error('is of another CA: no certificate of this one has the name of its issuer');
  // The first octet of a BIT STRING counts the unused bits of the last; a signature has none.
  if (signature.content[0] !== 0) throw new Error('is no CRL: its signature is not whole octets');
  const signed = signature.content.subarray(1);
  const signers = namesakes.filter((ca) => verify(digest, tbs.whole, ca.publicKey, signed));
  if (signers.length === 0) throw new Error(`has a signature that ${namesakes.map(nameOf).join(' and ')} has not made`);
  const unfit = signers.find((ca) => !maySignCrls(ca));
  if (unfit) throw new Error(`is signed by ${nameOf(unfit)}, whose key usage does not allow it`);

  if (!nextUpdate || nextUpdate.tag === SEQUENCE || nextUpdate.tag === CRL_EXTENSIONS) {
    throw new Error('does not say when the next one is due (nextUpdate)');
  }
  const entries = rest[0]?.tag === SEQUENCE ? rest.shift() : undefined;
  const extensions = rest[0]?.tag === CRL_EXTENSIONS ? rest.shift() : undefined;
  if (rest.length > 0) throw new Error('is no CRL: too many fields');
  for (const extension of extensions ? AsnConvert.parse(extensions.content, Extensions) : [])
    refuseExtension(extension);
  return {
    crl: {
      thisUpdateMs: AsnConvert.parse(thisUpdate.whole, Time).getTime().getTime(),
      nextUpdateMs: AsnConvert.parse(nextUpdate.whole, Time).getTime().getTime(),
      revoked: new Set(entries ? elements(entries.content).map(readEntry) : []),
    },
    signers,
  };
}

function refuseExtension({ extnID, critical }: Extension): void {
  if (extnID === DELTA_CRL_INDICATOR) throw new Error('is a delta CRL; a complete one is needed');
  if (critical) throw new Error(`has the critical extension ${extnID}, which is not understood`);
}

/** An entry: serial number, date, extensions. One that is critical may say that the entry is about another CA. */
function readEntry({ content }: Element): string {
  const [serial, , extensions] = elements(content);
  if (serial?.tag !== INTEGER || serial.content.length === 0) throw new Error('has an entry without a serial number');
  for (const extension of extensions ? elements(extensions.content) : []) {
    const critical = elements(extension.content)[1];
    if (critical?.tag === BOOLEAN && critical.content[0] !== 0) {
      throw new Error('has an entry with a critical extension, which is not understood');
    }
  }
  return BigInt.asIntN(serial.content.length * 8, BigInt(`0x${serial.content.toString('hex')}`)).toString(16);
}

function subjectOf(ca: X509Certificate): Buffer {
  const [, , , , subject] = fieldsOf(ca);
  if (!subject) throw new Error(`is for ${nameOf(ca)}, which cannot be read`);
  return subject.whole;
}

/** RFC 5280 4.2.1.3: without the extension a key may be used for all. */
function maySignCrls(ca: X509Certificate): boolean {
  const written = fieldsOf(ca).find(({ tag }) => tag === CERTIFICATE_EXTENSIONS);
  const extensions = written ? AsnConvert.parse(written.content, Extensions) : [];
  const usage = extensions.find(({ extnID }) => extnID === KEY_USAGE);
  if (!usage) return true;
  return (AsnConvert.parse(usage.extnValue, KeyUsage).toNumber() & KeyUsageFlags.cRLSign) !== 0;
}

/** The fields of a TBSCertificate but its version: serial, algorithm, issuer, validity, subject, key, … */
function fieldsOf(ca: X509Certificate): Element[] {
  const [outer] = elements(ca.raw);
  const [tbs] = outer ? elements(outer.content) : [];
  return tbs ? elements(tbs.content).filter(({ tag }) => tag !== VERSION) : [];
}

function derOf(block: string): Buffer {
  return Buffer.from(block.replace(/-----[^-]+-----/g, ''), 'base64');
}

interface Element {
  readonly tag: number;
  readonly content: Buffer;
  /** Tag and length included. */
  readonly whole: Buffer;
}

/** The elements that a DER text is made of, one after another (X.690 8.1, 10.1). @throws Error where they do not fill it */
function elements(der: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < der.length; ) {
    const tag = der.readUInt8(at);
    const first = der[at + 1] ?? 0x80;
    const lengthBytes = first < 0x80 ? 0 : first - 0x80;
    // 0x80 alone is BER's open length; nothing in a list needs more than four bytes of it, or a long tag.
    if ((tag & 0x1f) === 0x1f || first === 0x80 || lengthBytes > 4) throw new Error('is not DER');
    const start = at + 2 + lengthBytes;
    if (start > der.length) throw new Error('is cut short');
    const end = start + (lengthBytes === 0 ? first : der.readUIntBE(at + 2, lengthBytes));
    if (end > der.length) throw new Error('is cut short');
    found.push({ tag, content: der.subarray(start, end), whole: der.subarray(at, end) });
    at = end;
  }
  return found;
}
