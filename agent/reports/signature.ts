/**
 * What a push is signed with, so that its receiver knows that it is of this
 * gateway and whole: HTTP Message Signatures (RFC 9421) over the method, the
 * target, the type and the digest of the body (RFC 9530), by Ed25519 (RFC
 * 8032).
 *
 * Done here and by no package: it is one string and one call. The package that
 * does it, made by others, verifies it in the tests.
 */
import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto';

/** The public key as a JSON Web Key (RFC 8037); `kid` is its thumbprint (RFC 7638). */
export interface PublicJwk {
  readonly kty: 'OKP';
  readonly crv: 'Ed25519';
  readonly x: string;
  readonly kid: string;
  readonly alg: 'EdDSA';
  readonly use: 'sig';
}

export interface SigningKey {
  readonly jwk: PublicJwk;
  readonly sign: (bytes: Uint8Array) => Buffer;
}

/** What is sent. */
export interface Message {
  readonly url: string;
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** An Ed25519 private key in PEM (RFC 8410). @throws Error that says what else it is */
export function readSigningKey(pem: Buffer): SigningKey {
  const key = createPrivateKey(pem);
  if (key.asymmetricKeyType !== 'ed25519')
    throw new Error(`is a key of type ${key.asymmetricKeyType}; expected ed25519 (openssl genpkey -algorithm ed25519)`);
  const { x = '' } = createPublicKey(key).export({ format: 'jwk' });
  const kid = createHash('sha256').update(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`).digest('base64url');
  return {
    jwk: { kty: 'OKP', crv: 'Ed25519', x, kid, alg: 'EdDSA', use: 'sig' },
    sign: (bytes) => sign(null, bytes, key),
  };
}

/** The header fields of a signed POST; `nowMs` is UTC. */
export function signedHeaders(
  key: SigningKey,
  { url, contentType, body }: Message,
  nowMs: number,
): Readonly<Record<string, string>> {
  const digest = `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
  const covered = [
    ['@method', 'POST'],
    ['@target-uri', url],
    ['content-type', contentType],
    ['content-digest', digest],
  ] as const;
  const names = covered.map(([name]) => `"${name}"`).join(' ');
  const created = Math.floor(nowMs / 1_000);
  const parameters = `(${names});created=${created};keyid="${key.jwk.kid}";alg="ed25519"`;
  const lines = [...covered, ['@signature-params', parameters] as const];
  const base = lines.map(([name, value]) => `"${name}": ${value}`).join('\n');
  return {
    'content-type': contentType,
    'content-digest': digest,
    'signature-input': `mtgate=${parameters}`,
    signature: `mtgate=:${key.sign(Buffer.from(base, 'latin1')).toString('base64')}:`,
  };
}
