/**
 * Rule files: YAML in; what operators wrote, or every issue, out. All files
 * of the folder together are the policy: sections and files may come in any
 * order. Here each file is read for itself, by its schema; what needs the
 * whole is judged in compile.ts, which points back into the text by `locate`.
 */
import type { z } from 'zod';
import { byPlace, type Issue, type Path, type Place, readDocument } from '../core/document.ts';
import * as f from '../core/fields.ts';
import { parseAddress } from '../core/net.ts';
import { REFUSALS, type RefusalReason } from '../core/reasons.ts';
import type { ServerName } from '../core/words.ts';
import { parseDevicePattern, parseNamePattern } from './patterns.ts';

/** A rule file as its text. */
export interface RuleFile {
  readonly file: string;
  readonly text: string;
}

/** A month: long enough for every sensible grant, short enough that a slip of the finger ends. */
const LONGEST_SECONDS = 30 * 86_400;
const COUNT = f.integer(1, 1_000_000);
const USED = f.integer(0, 1_000_000);

/** The steps that `decide` takes; tests can expect their refusals. */
const TESTED_STEPS = ['mtcUser', 'rule', 'applicationServer', 'rate', 'quota'];
const TESTED_REASONS = (Object.keys(REFUSALS) as RefusalReason[]).filter((reason) =>
  TESTED_STEPS.includes(REFUSALS[reason].step),
);

/** What the gate has room for: more than it carries, and more than a grant of a month needs. */
const PACKETS_MOST = 10_000_000;
const BYTES_MOST = 1e12;
const UNITS: Readonly<Record<string, number>> = { '': 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
const size = f.field('a size such as 10MB (kB, MB, GB, TB), at most 1TB', (text) => {
  const [, digits = '', unit = ''] = /^([1-9]\d{0,12}) ?(kB|MB|GB|TB)?$/.exec(text) ?? [];
  const bytes = Number(digits) * (UNITS[unit] ?? 0);
  return 0 < bytes && bytes <= BYTES_MOST ? bytes : undefined;
});

const serverName = f.name<ServerName>();
const uri = f.field('a URI such as urn:mtc:acme:head-end', (text) =>
  /^[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+$/.test(text) ? text : undefined,
);
const sha256 = f.field('the SHA-256 of a public key (SubjectPublicKeyInfo): 64 hex digits', (text) => {
  const digits = text.replaceAll(':', '').toLowerCase();
  return /^[0-9a-f]{64}$/.test(digits) ? digits : undefined;
});
const devicePattern = f.field('a device pattern such as *@*.meters.example', parseDevicePattern);
const namePattern = f.field('a name, in which * stands for any letters', parseNamePattern);
const applicationServer = f.field('an IP address, or all', (text) => (text === 'all' ? text : parseAddress(text)));

/** YAML has no unions; a mapping with exactly one of some keys reads as one. Judged beside whatever else is wrong. */
function exactlyOne(...keys: readonly string[]) {
  const one = (written: object) => keys.filter((key) => key in written).length === 1;
  return [one, { error: `expected exactly one of ${keys.join(' and ')}`, when: isMapping }] as const;
}

function isMapping({ value }: { readonly value: unknown }): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const certificate = f
  .mapping({ uri: uri.exactOptional(), issuer: f.name().exactOptional(), sha256: sha256.exactOptional() })
  .refine(...exactlyOne('uri', 'sha256'))
  .refine((written) => !('sha256' in written && 'issuer' in written), {
    error: 'expected issuer with uri only: a public key needs none',
    when: isMapping,
  });

const server = f.mapping({
  certificates: f.list(certificate, 'certificates'),
  sources: f.list(f.prefix, 'prefixes'),
  apiSources: f.list(f.prefix, 'prefixes').exactOptional(),
});

const mtcUser = f.mapping({
  certificates: f.list(certificate, 'certificates').exactOptional(),
  devices: f.list(devicePattern, 'device patterns'),
  authorises: f.list(serverName, 'servers', 0).default([]),
  mayAuthorise: f.list(namePattern, 'names').exactOptional(),
});

const match = {
  servers: f.list(serverName, 'servers').exactOptional(),
  devices: f.list(devicePattern, 'device patterns').exactOptional(),
  protocols: f.list(f.protocol, 'tcp, udp').exactOptional(),
  ports: f.list(f.ports, 'ports').exactOptional(),
};

const limits = f
  .mapping({
    durationSeconds: f.integer(1, LONGEST_SECONDS),
    totalSeconds: f.integer(1, LONGEST_SECONDS).exactOptional(),
    grantsPerDevice: COUNT.exactOptional(),
    grantsPerServer: COUNT.exactOptional(),
    requestsPerMinute: COUNT.exactOptional(),
    packetsPerSecond: f.integer(1, PACKETS_MOST).exactOptional(),
    bytes: size.exactOptional(),
  })
  .refine(({ durationSeconds, totalSeconds = durationSeconds }) => totalSeconds >= durationSeconds, {
    error: 'expected totalSeconds to be at least durationSeconds',
    path: ['totalSeconds'],
  });

const rule = f
  .mapping({
    id: f.name(),
    allow: f.mapping({ ...match, applicationServer: f.choice('all').exactOptional() }).exactOptional(),
    deny: f.mapping({ ...match, reason: f.text }).exactOptional(),
    limits: limits.exactOptional(),
  })
  .refine(...exactlyOne('allow', 'deny'))
  .refine((written) => 'deny' in written || 'limits' in written, {
    error: '"limits" is missing: an allow says at least durationSeconds',
    when: isMapping,
  })
  .refine((written) => !('deny' in written && 'limits' in written), {
    error: 'expected no limits with deny',
    path: ['limits'],
    when: isMapping,
  })
  .meta({ oneOf: [{ required: ['allow', 'limits'] }, { required: ['deny'] }] });

const test = f.mapping({
  name: f.text,
  request: f.mapping({
    server: serverName,
    device: f.externalId,
    protocol: f.protocol,
    port: f.port,
    durationSeconds: f.integer(1, LONGEST_SECONDS),
    applicationServer: applicationServer.exactOptional(),
    ipFamily: f.family.exactOptional(),
    from: f.address.exactOptional(),
  }),
  usage: f
    .mapping({
      grantsOnDevice: USED.exactOptional(),
      grantsOfServer: USED.exactOptional(),
      requestsInLastMinute: USED.exactOptional(),
    })
    .exactOptional(),
  expect: f
    .mapping({
      allow: f.name().exactOptional(),
      durationSeconds: f.integer(1, LONGEST_SECONDS).exactOptional(),
      refuse: f.choice(...TESTED_REASONS).exactOptional(),
    })
    .refine(...exactlyOne('allow', 'refuse'))
    .refine((written) => !('refuse' in written && 'durationSeconds' in written), {
      error: 'expected durationSeconds with allow only',
      path: ['durationSeconds'],
      when: isMapping,
    }),
});

/** A rule file, key by key; rules/rules.schema.json, for editors, is made from it. */
export const ruleFile = f.mapping({
  servers: f.named(server, 'servers').default({}),
  mtcUsers: f.named(mtcUser, 'MTC users').default({}),
  rules: f.list(rule, 'rules', 0).default([]),
  tests: f.list(test, 'tests', 0).default([]),
});

export type WrittenServer = z.output<typeof server>;
export type WrittenMtcUser = z.output<typeof mtcUser>;
export type WrittenRule = z.output<typeof rule>;
export type WrittenTest = z.output<typeof test>;
export type WrittenCertificate = z.output<typeof certificate>;

/** One server, MTC user, rule or test, with the way back to its text. */
export interface Entry<Value> {
  readonly name: string;
  readonly value: Value;
  locate(...path: Path): Place;
}

/** All rule files as one. */
export interface Written {
  readonly servers: readonly Entry<WrittenServer>[];
  readonly mtcUsers: readonly Entry<WrittenMtcUser>[];
  readonly rules: readonly Entry<WrittenRule>[];
  readonly tests: readonly Entry<WrittenTest>[];
}

/** Reads all rule files, or tells every issue of all of them. */
export function readRules(
  files: readonly RuleFile[],
): { readonly written: Written } | { readonly issues: readonly Issue[] } {
  const readings = files.map(({ file, text }) => readDocument(text, file, ruleFile));
  const issues = readings.flatMap((reading) => ('issues' in reading ? reading.issues : []));
  if (issues.length > 0) return { issues: [...issues].sort(byPlace) };
  const documents = readings.flatMap((reading) => ('document' in reading ? reading.document : []));
  return {
    written: {
      servers: documents.flatMap(({ value, locate }) =>
        Object.entries(value.servers).map(([name, server]) => entry(name, server, locate, ['servers', name])),
      ),
      mtcUsers: documents.flatMap(({ value, locate }) =>
        Object.entries(value.mtcUsers).map(([name, user]) => entry(name, user, locate, ['mtcUsers', name])),
      ),
      rules: documents.flatMap(({ value, locate }) =>
        value.rules.map((rule, i) => entry(rule.id, rule, locate, ['rules', i])),
      ),
      tests: documents.flatMap(({ value, locate }) =>
        value.tests.map((test, i) => entry(test.name, test, locate, ['tests', i])),
      ),
    },
  };
}

function entry<Value>(name: string, value: Value, locate: (path: Path) => Place, at: Path): Entry<Value> {
  return { name, value, locate: (...path) => locate([...at, ...path]) };
}
