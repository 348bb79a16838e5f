/**
 * A certification authority for tests and the demo, by the openssl command.
 *
 * It makes what a test of authentication needs and a real CA would rarely
 * hand out: expired certificates, wrong or missing key usage, values in a
 * subjectAltName that try to look like two, intermediates, revocation lists.
 * Keys are P-256: a certificate takes some ten milliseconds. All files lie in
 * one folder that belongs to the PKI and goes with it.
 *
 * The `ca` command is used rather than `x509 -req`, since it alone takes both
 * ends of the validity and keeps the database a CRL is made from (RFC 5280).
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface CertificateRequest {
  /** The subject's CN; also the stem of the file names. */
  readonly name: string;
  /** Whole subjectAltName entries, each taken as it is: `URI:urn:mtc:acme`, `IP:127.0.0.1`, `DNS:gw.example`. */
  readonly san?: readonly string[];
  /** Extended key usages by openssl's names; empty: the extension is left out. */
  readonly usage?: readonly ('clientAuth' | 'serverAuth' | 'anyExtendedKeyUsage')[];
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** Takes this one's key instead of a new one (the key's role must stay one). */
  readonly sameKeyAs?: Issued;
  /** Signed by its own key. */
  readonly selfSigned?: boolean;
}

/** What is special about a CA's own certificate. */
interface CaRequest {
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** By openssl's names; a CA without cRLSign may not sign lists. */
  readonly keyUsage?: string;
}

/** What is special about a revocation list. */
interface CrlRequest {
  readonly thisUpdate?: Date;
  readonly nextUpdate?: Date;
  /** A line of openssl's extension section, such as `2.5.29.28 = critical, DER:3000`. */
  readonly extension?: string;
  /** How openssl calls the digest. */
  readonly digest?: string;
}

/** A certificate and its key, as PEM text and as files (for curl). */
export interface Issued {
  readonly certificate: string;
  readonly key: string;
  readonly certificateFile: string;
  readonly keyFile: string;
}

export interface TestCa extends Issued {
  readonly name: string;
  issue(request: CertificateRequest): Issued;
  /** A CA below this one. */
  intermediate(name: string): TestCa;
  /** Its own certificate again, with the same name and key and new dates; PEM text. */
  renew(): string;
  revoke(issued: Issued): void;
  /** The revocation list as of now: PEM text, also in `crlFile`. */
  crl(request?: CrlRequest): string;
  readonly crlFile: string;
}

export interface Pki {
  readonly folder: string;
  /** A root CA of this name. */
  ca(name: string, request?: CaRequest): TestCa;
  /** Removes all files. */
  remove(): void;
}

const DAY_MS = 86_400_000;

/** A PKI in a new temporary folder, or in the one named. */
export function createPki(folder = mkdtempSync(join(tmpdir(), 'mtgate-pki-'))): Pki {
  mkdirSync(folder, { recursive: true });
  return {
    folder,
    ca: (name, request) => createCa(join(folder, name), name, request),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** The DER inside a PEM block. */
export function derOf(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64');
}

/** The server certificate of a test's API: for loopback by address and by name. */
export function loopbackServer(ca: TestCa): Issued {
  return ca.issue({ name: 'api', usage: ['serverAuth'], san: ['IP:127.0.0.1', 'IP:::1', 'DNS:gateway.example'] });
}

function createCa(
  home: string,
  name: string,
  special: CaRequest = {},
  parent?: (request: CertificateRequest, extensions: string) => Issued,
): TestCa {
  mkdirSync(home, { recursive: true });
  const file = (leaf: string) => join(home, leaf);
  const config = file('ca.conf');
  writeFileSync(file('index.txt'), '');
  writeFileSync(file('index.txt.attr'), 'unique_subject = no\n');
  writeFileSync(config, caConfig(home));

  function sign(request: CertificateRequest, extensions: string, selfSigned: boolean): Issued {
    const stem = file(request.name);
    const keyFile = request.sameKeyAs?.keyFile ?? `${stem}.key`;
    const key = request.sameKeyAs
      ? ['-key', keyFile]
      : ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-keyout', keyFile];
    openssl([
      'req',
      '-new',
      ...key,
      '-noenc',
      '-config',
      config,
      '-subj',
      `/CN=${request.name}`,
      '-out',
      `${stem}.csr`,
    ]);
    writeFileSync(`${stem}.ext`, extensions);
    openssl([
      ...['ca', '-batch', '-notext', '-config', config, '-in', `${stem}.csr`, '-out', `${stem}.pem`],
      ...['-startdate', stamp(request.notBefore ?? new Date(Date.now() - DAY_MS))],
      ...['-enddate', stamp(request.notAfter ?? new Date(Date.now() + 30 * DAY_MS))],
      ...['-extfile', `${stem}.ext`, '-extensions', 'v3'],
      ...(selfSigned ? ['-selfsign', '-keyfile', keyFile] : []),
    ]);
    return {
      certificate: readFileSync(`${stem}.pem`, 'utf8'),
      key: readFileSync(keyFile, 'utf8'),
      certificateFile: `${stem}.pem`,
      keyFile,
    };
  }

  const { keyUsage, ...dates } = special;
  // Longer than what it issues: a second may begin between the two.
  const notAfter = new Date(Date.now() + 31 * DAY_MS);
  const own = parent
    ? parent({ name }, caExtensions(keyUsage))
    : sign({ name, notAfter, ...dates }, caExtensions(keyUsage), true);
  writeFileSync(file('ca.pem'), own.certificate);
  writeFileSync(file('ca.key'), own.key);
  const crlFile = file('crl.pem');
  return {
    ...own,
    name,
    crlFile,
    issue: (request) => sign(request, leafExtensions(request), request.selfSigned ?? false),
    intermediate: (below) =>
      createCa(join(home, `below-${below}`), below, {}, (request, ext) => sign(request, ext, false)),
    renew: () => sign({ name, sameKeyAs: own }, caExtensions(keyUsage), true).certificate,
    revoke: (issued) => openssl(['ca', '-config', config, '-revoke', issued.certificateFile]),
    crl({ thisUpdate, nextUpdate, extension, digest = 'sha256' } = {}) {
      writeFileSync(file('crl.conf'), `${caConfig(home)}[crl]\n${extension ?? ''}\n`);
      openssl([
        ...['ca', '-config', file('crl.conf'), '-gencrl', '-crldays', '30', '-md', digest, '-out', crlFile],
        ...(thisUpdate ? ['-crl_lastupdate', stamp(thisUpdate)] : []),
        ...(nextUpdate ? ['-crl_nextupdate', stamp(nextUpdate)] : []),
        ...(extension ? ['-crlexts', 'crl'] : []),
      ]);
      return readFileSync(crlFile, 'utf8');
    },
  };
}

function caExtensions(keyUsage = 'keyCertSign, cRLSign'): string {
  return `[v3]
basicConstraints = critical, CA:true
keyUsage = critical, ${keyUsage}
subjectKeyIdentifier = hash
`;
}

/** Alternative names stand in a section of their own: there a comma is part of the value, not a separator. */
function leafExtensions(request: CertificateRequest): string {
  const usage = request.usage ?? ['clientAuth'];
  const names = (request.san ?? []).map((entry, at) =>
    entry.replace(/["'\\$#]/g, '\\$&').replace(/^([A-Za-z]+):/, `$1.${at} = `),
  );
  return [
    '[v3]',
    'basicConstraints = CA:false',
    ...(usage.length > 0 ? [`extendedKeyUsage = ${usage.join(', ')}`] : []),
    ...(names.length > 0 ? ['subjectAltName = @names', '[names]', ...names] : []),
    '',
  ].join('\n');
}

function caConfig(home: string): string {
  return `[ca]
default_ca = own
[own]
database = ${home}/index.txt
new_certs_dir = ${home}
certificate = ${home}/ca.pem
private_key = ${home}/ca.key
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
distinguished_name = dn
[dn]
`;
}

/** ASN.1 GeneralizedTime, as the ca command wants it. */
function stamp(at: Date): string {
  return `${at.toISOString().replace(/[-:T]|\.\d+Z/g, '')}Z`;
}

function openssl(args: readonly string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
