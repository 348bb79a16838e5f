/**
 * What operators write, read from disk: agent.yaml, the rule files, the
 * devices file, certificates. Each is read whole, or not at all: a fault names
 * every issue with file:line:column, and nothing that was in force changes.
 *
 * What agent.yaml names as credential:NAME is read where systemd put it
 * (LoadCredential=, systemd.exec(5)): a copy made when the service started, so
 * that a renewed one comes in by a restart. A key in a plain file must not be
 * readable by others.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import type { ReadFile } from '../api/authorities.ts';
import { blocksOf } from '../api/pem.ts';
import type { TlsMaterial } from '../api/tls.ts';
import { ownUse, poolPrefixes } from '../closure/site.ts';
import { type Config, CREDENTIAL, ownSpaces, readConfig, servicesOf } from '../config.ts';
import { sharedRealms } from '../core/address-plan.ts';
import { decodeText, formatIssue, type Issue } from '../core/document.ts';
import { AgentError, type FaultCode } from '../core/errors.ts';
import type { Address } from '../core/net.ts';
import type { RadiusClient } from '../directory/clients.ts';
import { type FileSurroundings, type ListedDevice, readDevices } from '../directory/devices.ts';
import type { Checked } from '../editions/beginning.ts';
import { compilePolicy } from '../policy/compile.ts';
import type { WalkSite } from '../policy/packet-walk.ts';
import type { Policy } from '../policy/policy.ts';
import { runPolicyTests } from '../policy/policy-tests.ts';
import type { RuleFile } from '../policy/rules.ts';
import { readSigningKey, type SigningKey } from '../reports/signature.ts';
import { type IdentityKey, makeIdentityKey, readIdentityKey } from './identity-key.ts';
import { type Compiled, compileApart } from './policy-compiler.ts';
import { readRuleFolder } from './rule-folder.ts';

/** SHA-256 of a text, in hex. */
export const digest = (text: string) => createHash('sha256').update(text).digest('hex');

/** agent.yaml, frozen; what is odd but no fault is told to `warn`. @throws AgentError configInvalid */
export function loadConfig(file: string, warn: (warning: string) => void): Config {
  const path = resolve(file);
  const reading = readConfig(readText(path, 'configInvalid'), path);
  if ('issues' in reading) throw invalid('configInvalid', reading.issues);
  for (const warning of reading.warnings) warn(formatIssue(warning));
  return reading.config;
}

/** The rule files of a folder, compiled. @throws AgentError rulesInvalid */
export function loadPolicy(
  folder: string,
  config: Config | undefined,
  warn: (warning: string) => void,
  devices?: readonly ListedDevice[],
): Policy {
  const autoApply = config?.rules.folder === folder && config.rules.autoApply;
  return compileRules(readRuleFolder({ folder, autoApply }).files, folder, config, warn, devices);
}

/**
 * Rule files, compiled, their policy tests passed; `where` stands before their
 * names in what is told of them. Without a config they are held against
 * themselves alone. @throws AgentError rulesInvalid
 */
export function compileRules(
  files: readonly RuleFile[],
  where: string,
  config: Config | undefined,
  warn: (warning: string) => void,
  devices?: readonly ListedDevice[],
): Policy {
  const known = devices && { devices: devices.map(({ device }) => ({ attributes: {}, ...device })) };
  const compiled = compilePolicy(placed(files, where), { digest, ...known, ...surroundingsOf(config) });
  const failures = 'policy' in compiled ? runPolicyTests(compiled.policy, config && walkSite(config)) : [];
  return policyIn(failures.length > 0 ? { issues: failures } : compiled, warn);
}

/** The same in a thread of its own, of which `worker` is the code. @throws AgentError rulesInvalid, policyNotCompiled */
export async function compileRulesApart(
  files: readonly RuleFile[],
  where: string,
  config: Config,
  worker: URL,
): Promise<Checked> {
  const task = { files: placed(files, where), surroundings: surroundingsOf(config) };
  const warnings: string[] = [];
  return { policy: policyIn(await compileApart(worker, task), (warning) => warnings.push(warning)), warnings };
}

function placed(files: readonly RuleFile[], where: string): RuleFile[] {
  return files.map(({ file, text }) => ({ file: shown(join(where, file)), text }));
}

/** What packets meet by agent.yaml. */
export function walkSite(config: Config): WalkSite {
  const shared = sharedRealms(config.inside);
  return {
    realms: config.inside.flatMap(({ prefixes }) => prefixes),
    denied: config.base.deniedDestinations,
    egress: [...new Set(config.pools.egress.map(({ family }) => family))],
    pools: poolPrefixes(config),
    triggerPorts: config.triggers?.ports ?? [],
    services: servicesOf(config),
    inside: config.inside.map(({ realm, prefixes, nat }) => ({
      realm,
      prefixes,
      shared: shared.has(realm),
      ...(nat && { nat }),
    })),
  };
}

/** What the rules are held against. */
function surroundingsOf(config: Config | undefined) {
  if (!config) return {};
  return {
    authorities: config.api.clientCAs.map(({ name }) => name),
    pushes: {
      cas: config.reports.sinkCAs.map(({ name }) => name),
      signed: config.reports.signingKey !== undefined,
    },
    ownSpaces: ownSpaces(config),
    site: walkSite(config),
  };
}

function policyIn(compiled: Compiled, warn: (warning: string) => void): Policy {
  if ('issues' in compiled) throw invalid('rulesInvalid', compiled.issues);
  for (const warning of compiled.warnings) warn(formatIssue(warning));
  return compiled.policy;
}

/**
 * The devices of the devices file; none where agent.yaml names no file. Of the
 * host's own addresses those are known that agent.yaml names, unless the
 * surroundings know all. @throws AgentError devicesInvalid
 */
export function loadDevices(config: Config, surroundings: FileSurroundings = {}): readonly ListedDevice[] {
  if (!config.devices) return [];
  const text = readText(config.devices, 'devicesInvalid');
  const known = { ownUse: (address: Address) => ownUse(config, [], address), ...surroundings };
  const reading = readDevices(text, config.devices, config.inside, known);
  if ('issues' in reading) throw invalid('devicesInvalid', reading.issues);
  return reading.devices;
}

/** The API's own certificate and key, and whom it trusts. A CRL that cannot be read is no fault. @throws AgentError certificateInvalid */
export function loadTls({ api }: Config): TlsMaterial {
  const read = (file: string): ReadFile => ({ file, bytes: readBytes(file, 'certificateInvalid') });
  return {
    certificate: read(api.certificate),
    key: readSecret(api.key, 'certificateInvalid'),
    clientCas: api.clientCAs.map(({ name, file, crl }) => ({
      name,
      certificates: read(file),
      ...(crl !== undefined && { crl: readCrlFile(crl) }),
    })),
    minimumVersion: `TLSv${api.minimumTls}`,
  };
}

/** What pushes are signed with, and what their receivers are verified by. @throws AgentError certificateInvalid */
export function loadPushMaterial({ reports }: Config): {
  readonly key?: SigningKey;
  readonly cas: ReadonlyMap<string, readonly string[]>;
} {
  const judged = <Result>(file: string, read: () => Result): Result => {
    try {
      return read();
    } catch (cause) {
      if (cause instanceof AgentError) throw cause;
      throw new AgentError('certificateInvalid', `${file}: ${(cause as Error).message}`, { cause });
    }
  };
  const { signingKey: file, sinkCAs } = reports;
  const key = file === undefined ? undefined : readSecret(file, 'certificateInvalid').bytes;
  return {
    cas: new Map(
      sinkCAs.map(({ name, file }) => [
        name,
        judged(file, () => blocksOf(readBytes(file, 'certificateInvalid'), 'CERTIFICATE')),
      ]),
    ),
    ...(file !== undefined && key && { key: judged(file, () => readSigningKey(key)) }),
  };
}

/** The key by which IMSI and MSISDN are hashed; one that is not there yet is made. @throws AgentError identityKeyInvalid */
export function loadIdentityKey({ identities, store }: Config): IdentityKey {
  const file = identities.key ?? join(store.directory, 'identities.key');
  if (identities.key === undefined && !existsSync(file)) makeIdentityKey(file);
  const { bytes } = readSecret(file, 'identityKeyInvalid');
  return { key: readIdentityKey(bytes.toString('latin1'), file), keep: identities.keep };
}

/** What RFC 2865 3 calls the least of a good secret, in octets. */
const GOOD_SECRET = 16;

/** The RADIUS clients of agent.yaml with their secrets; weak ones are told to `warn`. @throws AgentError secretInvalid */
export function loadRadiusClients({ radius }: Config, warn: (warning: string) => void): readonly RadiusClient[] {
  return (radius?.clients ?? []).map(({ name, addresses, secret: file }) => {
    const secret = firstLineOf(readSecret(file, 'secretInvalid').bytes);
    if (secret.length === 0) throw new AgentError('secretInvalid', `${file}: the first line is empty`);
    if (secret.length < GOOD_SECRET)
      warn(`${file}: the secret of RADIUS client ${name} has ${secret.length} octets; expected ${GOOD_SECRET} or more`);
    return { name, addresses, secret };
  });
}

/** The octets before the first line end, blanks and all. */
function firstLineOf(bytes: Buffer): Buffer {
  const at = bytes.indexOf(0x0a);
  const line = at < 0 ? bytes : bytes.subarray(0, at);
  return line.at(-1) === 0x0d ? line.subarray(0, -1) : line;
}

function readCrlFile(file: string): ReadFile | { readonly file: string; readonly unreadable: string } {
  try {
    return { file, bytes: readFileSync(file) };
  } catch (fault) {
    return { file, unreadable: (fault as Error).message };
  }
}

/** A private key or shared secret. What systemd hands over it guards itself; a plain file is looked at. */
function readSecret(file: string, code: FaultCode): ReadFile {
  const path = file.startsWith(CREDENTIAL) ? credential(file.slice(CREDENTIAL.length), code) : file;
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0; // readText says what is wrong with one that is not there
  if (path === file && (mode & 0o007) !== 0) {
    const shownMode = (mode & 0o777).toString(8).padStart(4, '0');
    throw new AgentError(
      code,
      `${path}: others have rights to this secret (mode ${shownMode}): chmod 0600 it, or 0640 for a group`,
    );
  }
  const bytes = readBytes(path, code);
  if (bytes.toString('latin1').trim() === '') throw new AgentError(code, `${file} is empty`);
  return { file, bytes };
}

/** Where systemd put a credential of this service. */
function credential(name: string, code: FaultCode): string {
  const folder = process.env['CREDENTIALS_DIRECTORY'];
  if (folder && readdirSync(folder).includes(name)) return join(folder, name);
  throw new AgentError(
    code,
    `this service was given no credential ${name}: ` +
      `add LoadCredential=${name}:/etc/mtgate/${name} below [Service] (systemctl edit mtgate), then restart it`,
  );
}

function readText(file: string, code: FaultCode): string {
  const decoded = decodeText(readBytes(file, code), file);
  if ('issue' in decoded) throw invalid(code, [decoded.issue]);
  return decoded.text;
}

function readBytes(file: string, code: FaultCode): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new AgentError(code, `${file}: ${(cause as Error).message}`, { cause });
  }
}

/** A path as a person in this folder would write it. */
function shown(path: string): string {
  const near = relative(process.cwd(), path);
  return near.startsWith('..') ? path : near;
}

function invalid(code: FaultCode, issues: readonly Issue[]): AgentError {
  return new AgentError(code, issues.map(formatIssue).join('\n'));
}
