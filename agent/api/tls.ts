/**
 * The TLS side of the API: what is offered, whom it trusts, and what a failed
 * handshake is called.
 *
 * RFC 8446: TLS 1.3, and by configuration 1.2 with ephemeral keys and AEAD
 * suites alone, without renegotiation (RFC 9325 4.2). A client certificate is
 * asked for, and its chain must end at a named CA; by which CAs is not said
 * (RFC 8446 4.2.4 leaves that open): their names tell whose programs come here.
 * Revocation is not the handshake's matter: it is judged on every request
 * (authorities.ts).
 *
 * All files are read and checked before any of them is put in force; what
 * cannot be used is named by its file.
 */
import { constants, createPrivateKey, X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { AgentError } from '../core/errors.ts';
import type { TlsReason } from '../core/handshakes.ts';
import { type CaMaterial, type NamedCa, type ReadFile, readCa } from './authorities.ts';
import { blocksOf, isDer } from './pem.ts';

/** The files that agent.yaml names, as read. */
export interface TlsMaterial {
  /** The API's own certificate, and its chain behind it. */
  readonly certificate: ReadFile;
  readonly key: ReadFile;
  /** Whom clients' certificates may come from. Intermediates belong into their CA's file. */
  readonly clientCas: readonly CaMaterial[];
  readonly minimumVersion: 'TLSv1.2' | 'TLSv1.3';
}

/** The same, checked: ready to be put in force. */
export interface Trust {
  /** The API's own, and the file it is from. */
  readonly certificate: X509Certificate;
  readonly file: string;
  readonly cas: readonly NamedCa[];
  readonly context: SecureContextOptions;
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

/** @throws AgentError certificateInvalid where a file cannot be used; a revocation list that cannot be is no fault */
export function readTrust(material: TlsMaterial): Trust {
  const certificate = readOwn(material);
  const cas = material.clientCas.map(readCa);
  const context = contextOptions(material);
  try {
    createSecureContext(context);
  } catch (cause) {
    throw invalid(material.certificate, 'OpenSSL does not take it, its key or the client CAs', cause);
  }
  return { certificate, file: material.certificate.file, cas, context };
}

/** The API's own certificate, which must go with the key. */
function readOwn({ certificate, key }: TlsMaterial): X509Certificate {
  let own: X509Certificate;
  try {
    const [first = ''] = blocksOf(certificate.bytes, 'CERTIFICATE');
    own = new X509Certificate(first);
  } catch (cause) {
    throw invalid(certificate, (cause as Error).message, cause);
  }
  try {
    if (own.checkPrivateKey(createPrivateKey(key.bytes))) return own;
  } catch (cause) {
    const form = isDer(key.bytes) ? '; it looks like DER' : '';
    throw invalid(key, `holds no private key in PEM without a passphrase${form}`, cause);
  }
  throw invalid(key, `is not the key of the certificate in ${certificate.file}`);
}

function invalid({ file }: ReadFile, what: string, cause?: unknown): AgentError {
  return new AgentError('certificateInvalid', `${file}: ${what}`, { cause });
}

/** SSL_OP_DISABLE_TLSEXT_CA_NAMES (OpenSSL 3.0, ssl.h), for which Node has no name: CertificateRequest lists no CAs. */
const NO_CA_NAMES = 0x200;

/** Each context has ticket keys of its own, so that one made anew resumes no session of the one before. */
function contextOptions({ certificate, key, clientCas, minimumVersion }: TlsMaterial): SecureContextOptions {
  return {
    cert: certificate.bytes,
    key: key.bytes,
    ca: clientCas.flatMap(({ certificates }) => blocksOf(certificates.bytes, 'CERTIFICATE')),
    minVersion: minimumVersion,
    ciphers: SUITES.join(':'),
    honorCipherOrder: true,
    ecdhCurve: 'X25519:prime256v1:secp384r1',
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | NO_CA_NAMES,
    sessionTimeout: SESSION_SECONDS,
  };
}

/** By OpenSSL's verification result, or by the code of Node's error. */
const TLS_REASONS: Readonly<Record<string, TlsReason>> = {
  CERT_HAS_EXPIRED: 'tlsCertificateExpired',
  CERT_NOT_YET_VALID: 'tlsCertificateExpired',
  UNABLE_TO_GET_ISSUER_CERT: 'tlsUnknownCa',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'tlsUnknownCa',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'tlsUnknownCa',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'tlsUnknownCa',
  SELF_SIGNED_CERT_IN_CHAIN: 'tlsUnknownCa',
  CERT_SIGNATURE_FAILURE: 'tlsUnknownCa',
  INVALID_PURPOSE: 'tlsWrongUse',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'tlsVersion',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'tlsTimeout',
  ECONNRESET: 'tlsAborted',
};

export interface HandshakeFailure {
  readonly remote: string | undefined;
  readonly reason: TlsReason;
  readonly why: string;
}

/**
 * Why a peer whose handshake is over has shown no certificate of a named CA;
 * undefined where it has. OpenSSL has verified the chain, and Node would have
 * broken off there and then, with an alert for some and none for others; here
 * all of them are let finish, so that each sees the same.
 */
export function unproved(socket: TLSSocket): HandshakeFailure | undefined {
  if (socket.getPeerX509Certificate() === undefined)
    return { remote: remoteOf(socket), reason: 'tlsNoCertificate', why: 'it showed no certificate' };
  return socket.authorized ? undefined : handshakeFailure(new Error('not authorized'), socket);
}

/** Why whose handshake failed. What the chain lacked is on the socket; all else is in the error. */
export function handshakeFailure(fault: Error, socket: TLSSocket): HandshakeFailure {
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
