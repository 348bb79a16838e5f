/**
 * The TLS side of the API: what is offered, whom it trusts, and what a failed
 * handshake is called.
 *
 * RFC 8446: TLS 1.3, and by configuration 1.2 with ephemeral keys and AEAD
 * suites alone, without renegotiation (RFC 9325 4.2). A client certificate is
 * required and its chain must end at a named CA; where revocation lists are
 * given, every CA of a chain needs one, and a list that is out of date fails
 * the handshake rather than be overlooked (RFC 5280 6.3).
 */
import { constants, X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { AgentError } from '../core/errors.ts';
import type { TlsReason } from '../core/reasons.ts';
import type { NamedCa } from './identity.ts';

/** PEM texts, as read from the files that agent.yaml names. */
export interface TlsMaterial {
  /** The API's own certificate, and its chain behind it. */
  readonly certificate: string;
  readonly key: string;
  /** Whom clients' certificates may come from. Intermediates belong into their CA's bundle. */
  readonly clientCas: readonly { readonly name: string; readonly pem: string }[];
  /** One for each client CA, or none at all. */
  readonly crls: readonly string[];
  readonly minimumVersion: 'TLSv1.2' | 'TLSv1.3';
}

/** Sessions can be resumed for this long (RFC 8446 4.6.1); also the longest a ticket outlives its connection. */
const SESSION_SECONDS = 300;

const SUITES = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
];

/**
 * The options of a TLS context. Each context has ticket keys of its own, so
 * that one made anew resumes no session of the one before.
 * @throws AgentError certificateInvalid where a text cannot be read or key and certificate are no pair
 */
export function contextOptions(material: TlsMaterial): SecureContextOptions {
  const options: SecureContextOptions = {
    cert: material.certificate,
    key: material.key,
    ca: material.clientCas.flatMap(({ pem }) => blocksOf(pem, 'CERTIFICATE')),
    // Node reads only the first list of a text.
    crl: material.crls.flatMap((pem) => blocksOf(pem, 'X509 CRL')),
    minVersion: material.minimumVersion,
    ciphers: SUITES.join(':'),
    honorCipherOrder: true,
    ecdhCurve: 'X25519:prime256v1:secp384r1',
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
    sessionTimeout: SESSION_SECONDS,
  };
  try {
    createSecureContext(options);
  } catch (cause) {
    throw new AgentError('certificateInvalid', 'API certificate, key, client CAs or CRLs', { cause });
  }
  if (material.crls.some((pem) => blocksOf(pem, 'X509 CRL').length === 0)) {
    throw new AgentError('certificateInvalid', 'a CRL file holds no CRL in PEM');
  }
  return options;
}

/** The client CAs. @throws AgentError certificateInvalid where a bundle holds none, or a certificate that is no CA's */
export function readCas(material: TlsMaterial): readonly NamedCa[] {
  return material.clientCas.map(({ name, pem }) => {
    try {
      const certificates = blocksOf(pem, 'CERTIFICATE').map((block) => new X509Certificate(block));
      if (certificates.length > 0 && certificates.every(({ ca }) => ca)) return { name, certificates };
    } catch (cause) {
      throw new AgentError('certificateInvalid', `client CA ${name}: a certificate cannot be read`, { cause });
    }
    throw new AgentError('certificateInvalid', `client CA ${name}: no certificate, or one that is not a CA's`);
  });
}

function blocksOf(pem: string, label: string): string[] {
  return pem.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----`, 'g')) ?? [];
}

/** By OpenSSL's verification result, or by the code of Node's error. */
const TLS_REASONS: Readonly<Record<string, TlsReason>> = {
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'tlsNoCertificate',
  CERT_HAS_EXPIRED: 'tlsCertificateExpired',
  CERT_NOT_YET_VALID: 'tlsCertificateExpired',
  UNABLE_TO_GET_ISSUER_CERT: 'tlsUnknownCa',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'tlsUnknownCa',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'tlsUnknownCa',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'tlsUnknownCa',
  SELF_SIGNED_CERT_IN_CHAIN: 'tlsUnknownCa',
  CERT_SIGNATURE_FAILURE: 'tlsUnknownCa',
  CERT_REVOKED: 'tlsRevoked',
  UNABLE_TO_GET_CRL: 'tlsRevocationUnknown',
  CRL_HAS_EXPIRED: 'tlsRevocationUnknown',
  CRL_NOT_YET_VALID: 'tlsRevocationUnknown',
  CRL_SIGNATURE_FAILURE: 'tlsRevocationUnknown',
  INVALID_PURPOSE: 'tlsWrongUse',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'tlsVersion',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'tlsTimeout',
  ECONNRESET: 'tlsAborted',
};

/** Why whose handshake failed. What the chain lacked is on the socket; all else is in the error. */
export function handshakeFailure(
  fault: Error,
  socket: TLSSocket,
): { remote: string | undefined; reason: TlsReason; why: string } {
  // Node types it as an Error; it is OpenSSL's name of the result.
  const verdict = socket.authorizationError as unknown as string | null | undefined;
  const code = verdict ?? (fault as NodeJS.ErrnoException).code ?? fault.message;
  return { remote: remoteOf(socket), reason: TLS_REASONS[code] ?? 'tlsOther', why: code };
}

/**
 * A socket that Node has destroyed has lost its address, but the TCP socket
 * below it still knows. `_parent` is not in Node's documentation: best effort,
 * for the log alone.
 */
function remoteOf(socket: TLSSocket): string | undefined {
  return socket.remoteAddress ?? (socket as TLSSocket & { _parent?: Socket })._parent?.remoteAddress;
}
