/** Whose a certificate is: known by what stands in the rule files, and asked with every request. */
import type { MtcUserName, ServerName } from '../core/words.ts';

/** How a certificate is known: by a URI in its subjectAltName (and the CA that signed it), or by its public key. */
export type Certificate =
  | { readonly uri: string; readonly issuer?: string }
  /** SHA-256 of the SubjectPublicKeyInfo, 64 hex digits in lower case. */
  | { readonly sha256: string };

/** Who a certificate stands for. */
export type Identity =
  | { readonly role: 'server'; readonly name: ServerName }
  | { readonly role: 'mtcUser'; readonly name: MtcUserName };

/** A certificate of the rule files, and whom it stands for. */
export interface Holder {
  readonly certificate: Certificate;
  readonly identity: Identity;
}

/** What a peer's certificate shows. `issuer` is the name in agent.yaml of the CA that the chain was verified to. */
export interface Presented {
  readonly uris: readonly string[];
  readonly spkiSha256: string;
  readonly issuer?: string | undefined;
}

/**
 * Whose certificate this is. By its SAN or its key, never by its subject's
 * name; more than one holder is nobody, since guessing would be authentication
 * by luck.
 */
export function identify(
  { holders }: { readonly holders: ReadonlyMap<string, readonly Holder[]> },
  presented: Presented,
): Identity | 'certificateUnknown' | 'certificateAmbiguous' {
  let found: Identity | undefined;
  for (const name of [...presented.uris, presented.spkiSha256]) {
    for (const { certificate, identity } of holders.get(name) ?? []) {
      if (isSame(identity, found) || !isThat(certificate, presented)) continue;
      if (found) return 'certificateAmbiguous';
      found = identity;
    }
  }
  return found ?? 'certificateUnknown';
}

/** Two certificates of one holder are one identity. */
function isSame(one: Identity, other: Identity | undefined): boolean {
  return one.role === other?.role && one.name === other.name;
}

interface Party {
  readonly name: string;
  readonly certificates: readonly Certificate[];
}

/** All certificates of servers and MTC users, by their URI or the hash of their key. */
export function holdersOf(servers: Iterable<Party>, mtcUsers: Iterable<Party>): Map<string, Holder[]> {
  const all = [
    ...[...servers].map((one) => ({ ...one, role: 'server' }) as const),
    ...[...mtcUsers].map((one) => ({ ...one, role: 'mtcUser' }) as const),
  ];
  const holders = new Map<string, Holder[]>();
  for (const { role, name, certificates } of all) {
    const identity = { role, name } as Identity;
    for (const certificate of certificates) {
      const key = 'sha256' in certificate ? certificate.sha256 : certificate.uri;
      holders.set(key, [...(holders.get(key) ?? []), { certificate, identity }]);
    }
  }
  return holders;
}

function isThat(known: Certificate, presented: Presented): boolean {
  if ('sha256' in known) return known.sha256 === presented.spkiSha256;
  return presented.uris.includes(known.uri) && (known.issuer === undefined || known.issuer === presented.issuer);
}
