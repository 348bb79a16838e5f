/**
 * What may stand in a rule file, key by key, and what each key is read as.
 * rules/rules.schema.json, for editors, is made from it, so that the editor
 * and the agent say the same. Filters and tests of packets bring their own
 * part (filter-files.ts, packet-tests.ts). Here a file is judged for itself;
 * what needs the whole is judged in checks.ts.
 */
import type { z } from 'zod';
import * as f from '../core/fields.ts';
import { parseInstant } from '../core/instants.ts';
import { parseAddress } from '../core/net.ts';
import { REFUSALS, type RefusalReason } from '../core/refusals.ts';
import { MTC_USER_EVENTS, readSinkUrl, SERVER_EVENTS } from '../core/sinks.ts';
import { filter } from './filter-files.ts';
import { packet, packetExpectation } from './packet-tests.ts';
import { parseDevicePattern, parseNamePattern } from './patterns.ts';
import { COUNT, LONGEST_SECONDS, match, ruleOf, serverName, USED } from './rule-members.ts';
import { triggerRule, triggerTest, triggerUsage } from './trigger-schema.ts';

/** The steps that `decide` takes; tests can expect their refusals. */
const TESTED_STEPS = ['mtcUser', 'rule', 'trigger', 'applicationServer', 'filter', 'rate', 'quota'];
const TESTED_REASONS = (Object.keys(REFUSALS) as RefusalReason[]).filter((reason) =>
  TESTED_STEPS.includes(REFUSALS[reason].step),
);

const utc = f.field('a time in UTC such as 2026-03-29T00:30:00Z', (text) =>
  /T[\d:]+Z$/.test(text) ? parseInstant(text) : undefined,
);
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

const certificate = f
  .mapping({ uri: uri.exactOptional(), issuer: f.name().exactOptional(), sha256: sha256.exactOptional() })
  .refine(...f.exactlyOne('uri', 'sha256'))
  .refine((written) => !('sha256' in written && 'issuer' in written), {
    error: 'expected issuer with uri only: a public key needs none',
    when: f.isMapping,
  });

const sinkUrl = f.field(
  'an https URL such as https://sink.acme.example/mtgate',
  (text) => {
    const url = readSinkUrl(text);
    return typeof url === 'string' ? undefined : url.href;
  },
  { pattern: '^https://' },
  (text) => {
    const lacking = readSinkUrl(text);
    return `expected an https URL with ${typeof lacking === 'string' ? lacking : ''}, found ${f.describe(text)}`;
  },
);

/** Where events are pushed to. `ca` names a CA file of agent.yaml. */
function sinksOf<const Events extends string>(events: readonly Events[]) {
  const all = f.list(f.choice(...events), events.join(', ')).default([...events] as never[]);
  const sink = f.mapping({ url: sinkUrl, events: all, ca: f.name().exactOptional() });
  return f.named(sink, 'sinks').exactOptional();
}

const server = f.mapping({
  certificates: f.list(certificate, 'certificates'),
  sources: f.list(f.prefix, 'prefixes'),
  apiSources: f.list(f.prefix, 'prefixes').exactOptional(),
  nat: f.choice('none').exactOptional(),
  sinks: sinksOf(SERVER_EVENTS),
});

const mtcUser = f.mapping({
  certificates: f.list(certificate, 'certificates').exactOptional(),
  apiSources: f.list(f.prefix, 'prefixes').exactOptional(),
  devices: f.list(devicePattern, 'device patterns'),
  authorises: f.list(serverName, 'servers', 0).default([]),
  mayAuthorise: f.list(namePattern, 'names').exactOptional(),
  sinks: sinksOf(MTC_USER_EVENTS),
});

const deviceGroup = f
  .mapping({
    devices: f.list(devicePattern, 'device patterns').exactOptional(),
    attributes: f.attributes(f.list(f.attributeValue, 'values')).exactOptional(),
  })
  .refine(({ devices, attributes }) => devices !== undefined || Object.keys(Object(attributes)).length > 0, {
    error: 'expected devices, or attributes, or both: a group without them would be every device',
    when: f.isMapping,
  });

const serverGroup = f.mapping({ servers: f.list(namePattern, 'names') });

const limits = f
  .mapping({
    durationSeconds: f.integer(1, LONGEST_SECONDS),
    totalSeconds: f.integer(1, LONGEST_SECONDS).exactOptional(),
    grantsPerDevice: COUNT.exactOptional(),
    grantsPerServer: COUNT.exactOptional(),
    requestsPerMinute: COUNT.exactOptional(),
    packetsPerSecond: f.integer(1, 10_000_000).exactOptional(),
    bytes: f.bytes.exactOptional(),
  })
  .refine(({ durationSeconds, totalSeconds = durationSeconds }) => totalSeconds >= durationSeconds, {
    error: 'expected totalSeconds to be at least durationSeconds',
    path: ['totalSeconds'],
  });

const rule = ruleOf(
  f.mapping({ ...match, applicationServer: f.choice('all').exactOptional() }),
  f.mapping({ ...match, reason: f.text }),
  limits,
  'an allow says at least durationSeconds',
);

const requestUsage = {
  grantsOnDevice: USED.exactOptional(),
  grantsOfServer: USED.exactOptional(),
  requestsInLastMinute: USED.exactOptional(),
};

const expectation = f
  .mapping({
    allow: f.name().exactOptional(),
    durationSeconds: f.integer(1, LONGEST_SECONDS).exactOptional(),
    refuse: f.choice(...TESTED_REASONS).exactOptional(),
    ...packetExpectation,
  })
  .refine(...f.exactlyOne('allow', 'refuse', 'drop', 'pass'))
  .refine((written) => !('durationSeconds' in written) || 'allow' in written, {
    error: 'expected durationSeconds with allow only',
    path: ['durationSeconds'],
    when: f.isMapping,
  });

const test = f
  .mapping({
    name: f.text,
    stage: f.flag.exactOptional(),
    request: f
      .mapping({
        server: serverName,
        device: f.externalId,
        protocol: f.protocol,
        port: f.port,
        durationSeconds: f.integer(1, LONGEST_SECONDS),
        applicationServer: applicationServer.exactOptional(),
        ipFamily: f.family.exactOptional(),
        from: f.address.exactOptional(),
      })
      .exactOptional(),
    packet: packet.exactOptional(),
    trigger: triggerTest.exactOptional(),
    attributes: f.attributes(f.attributeValue).exactOptional(),
    now: utc.exactOptional(),
    usage: f.mapping({ ...requestUsage, ...triggerUsage }).exactOptional(),
    expect: expectation,
  })
  .refine(...f.exactlyOne('request', 'packet', 'trigger'))
  .refine(...only('request', 'expect', ['drop', 'pass']))
  .refine(...only('packet', 'expect', ['refuse', 'durationSeconds']))
  .refine(...only('trigger', 'expect', ['durationSeconds', 'drop', 'pass']))
  .refine(...only('request', 'usage', Object.keys(triggerUsage)))
  .refine(...only('trigger', 'usage', Object.keys(requestUsage)))
  .meta({ oneOf: [{ required: ['request'] }, { required: ['packet'] }, { required: ['trigger'] }] });

/** What a test of one kind cannot say within a key of it. */
function only(kind: string, key: 'expect' | 'usage', not: readonly string[]) {
  const fits = (written: { readonly expect: object; readonly usage?: object }) =>
    !(kind in written) || !not.some((one) => one in (written[key] ?? {}));
  return [fits, { error: `expected no ${not.join(', ')} with ${kind}`, path: [key] as PropertyKey[] }] as const;
}

/** Who there is cannot be tried out: certificates and sources count, or they do not. */
function enforced(key: 'servers' | 'mtcUsers') {
  const stands = (file: { readonly stage?: boolean; readonly servers: object; readonly mtcUsers: object }) =>
    !file.stage || Object.keys(file[key]).length === 0;
  const error = `expected no ${key} in a staged file; move them to another`;
  return [stands, { error, path: [key] as PropertyKey[] }] as const;
}

/** A whole file. */
export const ruleFile = f
  .mapping({
    stage: f.flag.exactOptional(),
    servers: f.named(server, 'servers').default({}),
    mtcUsers: f.named(mtcUser, 'MTC users').default({}),
    deviceGroups: f.named(deviceGroup, 'groups of devices').default({}),
    serverGroups: f.named(serverGroup, 'groups of servers').default({}),
    rules: f.list(rule, 'rules', 0).default([]),
    triggers: f.list(triggerRule, 'trigger rules', 0).default([]),
    filters: f.list(filter, 'filters', 0).default([]),
    tests: f.list(test, 'tests', 0).default([]),
  })
  .refine(...enforced('servers'))
  .refine(...enforced('mtcUsers'));

export type WrittenFile = z.output<typeof ruleFile>;
export type WrittenServer = z.output<typeof server>;
export type WrittenMtcUser = z.output<typeof mtcUser>;
export type WrittenDeviceGroup = z.output<typeof deviceGroup>;
export type WrittenServerGroup = z.output<typeof serverGroup>;
export type WrittenRule = z.output<typeof rule>;
export type WrittenAnyTest = z.output<typeof test>;
export type WrittenTest = Omit<WrittenAnyTest, 'request'> & Required<Pick<WrittenAnyTest, 'request'>>;
export type WrittenPacketTest = Omit<WrittenAnyTest, 'packet'> & Required<Pick<WrittenAnyTest, 'packet'>>;
export type WrittenTriggerTest = Omit<WrittenAnyTest, 'trigger'> & Required<Pick<WrittenAnyTest, 'trigger'>>;
export type WrittenCertificate = z.output<typeof certificate>;
