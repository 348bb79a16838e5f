/**
 * What the schema of one file cannot see: names that nothing bears, names and
 * keys that two bear, prefixes and devices that two claim. Every finding at
 * its place in the text; the first of two is named by the second.
 */
import { SPECIAL } from '../core/address-plan.ts';
import { type Claim, clashesAmong, seenFrom } from '../core/claims.ts';
import type { Issue, Path, Place } from '../core/document.ts';
import { unknownWord } from '../core/fields.ts';
import { type Owned, overlapsAmong } from '../core/overlaps.ts';
import { faultOf } from './condition.ts';
import { type FilterGroups, filterIssues } from './filter-files.ts';
import { DROPPERS, packetIssues } from './packet-tests.ts';
import { PatternIndex } from './pattern-index.ts';
import { type DevicePattern, devicesOverlap, matchesName } from './patterns.ts';
import type { WrittenCertificate } from './rule-schema.ts';
import type { Entry, RulesReading, Written } from './rules.ts';

/** What agent.yaml says of pushes. */
export interface Pushes {
  /** The names of `reports.sinkCAs`. */
  readonly cas: readonly string[];
  /** Whether there is a key to sign with. */
  readonly signed: boolean;
}

/**
 * All that is wrong with rules whose files are right. Without `authorities`
 * nothing is said of issuers; where a file could not be read, nothing of names
 * that may stand in it.
 */
export function findIssues(
  { written, issues }: RulesReading,
  authorities: readonly string[] | undefined,
  ownSpaces: readonly Owned[],
  groups: FilterGroups,
  pushes: Pushes | undefined,
): Issue[] {
  return [
    ...issues,
    ...clashesAmong(nameClaims(written)),
    ...clashesAmong(certificateClaims(written, authorities)),
    ...issuerIssues(written, authorities),
    ...sourceIssues(written, ownSpaces),
    ...clashesAmong(sinkClaims(written)),
    ...sinkIssues(written, pushes),
    ...deviceIssues(written),
    ...(issues.length > 0 ? [] : unknownNames(written)),
    ...unauthorisable(written),
    ...conditionIssues(written),
    ...packetTestIssues(written, issues.length === 0),
    ...filterIssues(written.filters, groups, issues.length === 0),
  ];
}

function* nameClaims(written: Written): Generator<Claim> {
  const { servers, mtcUsers, deviceGroups, serverGroups, rules, triggers, filters } = written;
  const { tests, triggerTests, packetTests } = written;
  for (const { name, locate } of servers) yield claim(`server "${name}"`, locate);
  for (const { name, locate } of mtcUsers) yield claim(`MTC user "${name}"`, locate);
  // Of both kinds together: where a packet comes from, either may be named.
  for (const { name, locate } of [...deviceGroups, ...serverGroups]) yield claim(`group "${name}"`, locate);
  // One id, one thing that decided: in denials and refusals both stand under `rule`.
  const id = (what: string, name: string, locate: Entry<unknown>['locate']) =>
    claim(`${what} id "${name}"`, () => locate('id'), `id ${name}`);
  for (const { name, locate } of rules) yield id('rule', name, locate);
  for (const { name, locate } of triggers) yield id('trigger rule', name, locate);
  for (const { name, locate } of filters) yield id('filter', name, locate);
  for (const { name, locate } of [...tests, ...triggerTests, ...packetTests])
    yield claim(`test "${name}"`, () => locate('name'));
}

/** A key has one role: it stands for one server or for one MTC user, and is named once. */
function* certificateClaims(written: Written, authorities: readonly string[] = []): Generator<Claim> {
  const only = authorities.length === 1 ? authorities[0] : undefined;
  for (const { certificate, locate } of certificatesOf(written)) {
    const { uri, issuer = only, sha256 } = certificate;
    if (sha256) yield claim(`public key ${sha256.slice(0, 16)}…`, locate, sha256);
    else yield claim(`certificate ${uri}${issuer ? ` of ${issuer}` : ''}`, locate);
  }
}

function issuerIssues(written: Written, authorities: readonly string[] | undefined): Issue[] {
  if (!authorities) return [];
  return certificatesOf(written).flatMap(({ certificate: { uri, issuer }, locate }) => {
    if (!uri) return [];
    if (issuer !== undefined && !authorities.includes(issuer)) {
      return { ...locate('issuer'), message: unknownWord('client CA', issuer, authorities) };
    }
    if (issuer !== undefined || authorities.length < 2) return [];
    return {
      ...locate(),
      message: `"issuer" is missing: agent.yaml trusts more than one CA (${authorities.join(', ')})`,
    };
  });
}

/** Every sink, and whose it is. */
export function sinksIn({ servers, mtcUsers }: Written) {
  const owners = [
    ...servers.map((entry) => ({ ...entry, owner: `server ${entry.name}` })),
    ...mtcUsers.map((entry) => ({ ...entry, owner: `MTC user ${entry.name}` })),
  ];
  return owners.flatMap(({ owner, value: { sinks = {} }, locate }) =>
    Object.entries(sinks).map(([name, { url, ca }]) => ({
      ...{ owner, url, ca },
      place: (...path: Path) => locate('sinks', name, ...path),
    })),
  );
}

/** One place is told once. */
function sinkClaims(written: Written): Claim[] {
  return sinksIn(written).map(({ owner, url, place }) => claim(`sink ${url} of ${owner}`, () => place('url')));
}

function sinkIssues(written: Written, pushes: Pushes | undefined): Issue[] {
  return sinksIn(written).flatMap(({ ca, place }) =>
    !pushes || ca === undefined || pushes.cas.includes(ca)
      ? []
      : { ...place('ca'), message: unknownWord('CA for sinks', ca, pushes.cas) },
  );
}

/** Without translation a grant needs a realm whose addresses are no other's. */
export function realmlessIssues({ servers }: Written, realms: readonly { readonly shared: boolean }[]): Issue[] {
  if (realms.length === 0 || realms.some(({ shared }) => !shared)) return [];
  return servers.flatMap(({ name, value, locate }) =>
    value.nat === 'none'
      ? { ...locate('nat'), message: `server "${name}" gets no grant: every realm of agent.yaml ${SHARES}` }
      : [],
  );
}

/** What no grant without translation can be given in. */
export const SHARES = 'shares addresses with another one, and without translation packets from outside name no realm';

interface Source extends Owned {
  /** Of what agent.yaml says: none. */
  readonly place?: Place;
}

/** A packet's source says which server sent it, so no address has two; nor can it be the gateway's own. */
function sourceIssues({ servers }: Written, ownSpaces: readonly Source[]): Issue[] {
  const sources = servers.flatMap(({ name, value, locate }) =>
    value.sources.map((prefix, i): Source => ({ prefix, owner: `server ${name}`, place: locate('sources', i) })),
  );
  return overlapsAmong<Source>([...sources, ...ownSpaces, ...SPECIAL]).flatMap(({ inner, outer }) => {
    const [blamed, other] = inner.place ? [inner, outer] : [outer, inner];
    if (!blamed.place) return [];
    const where = other.place ? ` in ${seenFrom(blamed.place, other.place)}` : '';
    const message = `${blamed.prefix.text} (${blamed.owner}) overlaps ${other.prefix.text} (${other.owner})${where}`;
    return { ...blamed.place, message };
  });
}

interface Owning {
  readonly user: string;
  readonly pattern: DevicePattern;
  /** As the files have them. */
  readonly number: number;
  readonly place: () => Place;
}

/** So many overlaps of one pattern are told; a pattern that overlaps all others has one fault, not thousands. */
const OVERLAPS_TOLD = 16;

/** A device belongs to one MTC user: no identifier matches patterns of two. */
function deviceIssues({ mtcUsers }: Written): Issue[] {
  const all = mtcUsers.flatMap(({ name, value, locate }) =>
    value.devices.map((pattern, i) => ({ user: name, pattern, place: () => locate('devices', i) })),
  );
  const earlier = new PatternIndex<Owning[]>(() => []);
  return all.flatMap((later, number) => {
    const overlapped = earlier
      .overlapping(later.pattern)
      .flat()
      .filter(({ user, pattern }) => user !== later.user && devicesOverlap(pattern, later.pattern))
      .sort((a, b) => a.number - b.number);
    earlier.at(later.pattern).push({ ...later, number });
    const place = overlapped.length > 0 ? later.place() : undefined;
    if (!place) return [];
    return overlapped.slice(0, OVERLAPS_TOLD).map((one, i) => {
      const other = `"${one.pattern.text}" (MTC user ${one.user}) in ${seenFrom(place, one.place())}`;
      const more = i === OVERLAPS_TOLD - 1 && overlapped.length > OVERLAPS_TOLD;
      const untold = more ? `; and ${overlapped.length - OVERLAPS_TOLD} more` : '';
      return {
        ...place,
        message: `"${later.pattern.text}" (MTC user ${later.user}) overlaps ${other}: a device has one MTC user${untold}`,
      };
    });
  });
}

function unknownNames(written: Written): Issue[] {
  const { servers, mtcUsers, deviceGroups, serverGroups, rules, triggers, tests, triggerTests } = written;
  const known = servers.map(({ name }) => name);
  const all: readonly RuleEntry[] = [...rules, ...triggers];
  const named = [
    ...mtcUsers.flatMap(({ value, locate }) =>
      value.authorises.map((name, i) => ({ name, place: () => locate('authorises', i) })),
    ),
    ...all.flatMap(({ value, locate }) =>
      (['allow', 'deny'] as const).flatMap((action) =>
        (value[action]?.servers ?? []).flatMap((one, i) =>
          typeof one === 'string' ? { name: one, place: () => locate(action, 'servers', i) } : [],
        ),
      ),
    ),
    ...tests.map(({ value, locate }) => ({ name: value.request.server, place: () => locate('request', 'server') })),
    ...triggerTests.map(({ value, locate }) => ({
      name: value.trigger.server,
      place: () => locate('trigger', 'server'),
    })),
  ];
  const ofServers = serverGroups.map(({ name }) => name);
  const ofDevices = deviceGroups.map(({ name }) => name);
  return [
    ...unknown('server', named, known),
    ...expectationIssues('rule', tests, rules),
    ...expectationIssues('trigger rule', triggerTests, triggers),
    ...unknown('group of servers', groupsNamed(all, 'servers'), ofServers, ofDevices),
    ...unknown('group of devices', groupsNamed(all, 'devices'), ofDevices, ofServers),
  ];
}

/** Tests that expect an allow which is not there, or is staged. */
function expectationIssues(
  kind: string,
  tests: readonly Entry<{ readonly expect: { readonly allow?: string }; readonly stage?: boolean }>[],
  rules: readonly RuleEntry[],
): Issue[] {
  const allows = rules.filter(({ value }) => value.allow).map(({ name }) => name);
  const staged = new Set(rules.filter(({ value }) => value.stage).map(({ name }) => name));
  const expected = tests.flatMap(({ value: { expect }, locate }) =>
    expect.allow === undefined ? [] : { name: expect.allow, place: () => locate('expect', 'allow') },
  );
  const notEnforced = tests.flatMap(({ value: { expect, stage }, locate }) =>
    expect.allow === undefined || stage || !staged.has(expect.allow)
      ? []
      : {
          ...locate('expect', 'allow'),
          message: `${kind} "${expect.allow}" is staged; a test of it says stage: true, too`,
        },
  );
  return [...unknown(`allow ${kind}`, expected, allows), ...notEnforced];
}

/** A rule on grants or on triggers. */
type RuleEntry = Written['rules' | 'triggers'][number];

interface Named {
  readonly name: string;
  readonly place: () => Place;
}

function groupsNamed(rules: readonly RuleEntry[], member: 'servers' | 'devices'): Named[] {
  return rules.flatMap(({ value, locate }) =>
    (['allow', 'deny'] as const).flatMap((action) =>
      (value[action]?.[member] ?? []).flatMap((one, i) =>
        typeof one !== 'string' && 'group' in one ? { name: one.group, place: () => locate(action, member, i) } : [],
      ),
    ),
  );
}

/** `others` bear such names too, and are not meant here. */
function unknown(
  kind: string,
  named: readonly Named[],
  known: readonly string[],
  others: readonly string[] = [],
): Issue[] {
  const all = new Set(known);
  return named
    .filter(({ name }) => !all.has(name))
    .map(({ name, place }) => ({
      ...place(),
      message: others.includes(name) ? `"${name}" is no ${kind}` : unknownWord(kind, name, known),
    }));
}

function unauthorisable({ mtcUsers }: Written): Issue[] {
  return mtcUsers.flatMap(({ value: { authorises, mayAuthorise }, locate }) =>
    authorises.flatMap((server, i) =>
      !mayAuthorise || mayAuthorise.some((pattern) => matchesName(pattern, server))
        ? []
        : {
            ...locate('authorises', i),
            message: `"${server}" is not within mayAuthorise (${mayAuthorise.map(({ text }) => text).join(', ')})`,
          },
    ),
  );
}

function conditionIssues({ rules, triggers }: Written): Issue[] {
  return [...rules, ...triggers].flatMap(({ value: { when }, locateIn }) => {
    const fault = when && faultOf(when.text);
    return fault ? { ...locateIn(fault.at, 'when'), message: fault.message } : [];
  });
}

function certificatesOf({ servers, mtcUsers }: Written) {
  const holders: readonly Entry<{ readonly certificates?: readonly WrittenCertificate[] }>[] = [
    ...servers,
    ...mtcUsers,
  ];
  return holders.flatMap(({ value, locate }) =>
    (value.certificates ?? []).map((certificate, i) => ({
      certificate,
      locate: (...path: Path) => locate('certificates', i, ...path),
    })),
  );
}

function claim(what: string, place: () => Place, key = what): Claim {
  return { key, what, place };
}

/** Of tests of packets; unless all files could be read, what they name may stand in another. */
function packetTestIssues({ packetTests, servers, filters }: Written, allRead: boolean): Issue[] {
  const idsOf = (action: 'allow' | 'drop') => filters.filter(({ value }) => value[action]).map(({ name }) => name);
  const staged = new Set(filters.filter(({ value }) => value.stage).map(({ name }) => name));
  const known = {
    server: servers.map(({ name }) => name),
    allow: idsOf('allow'),
    drop: [...idsOf('drop'), ...DROPPERS],
  };
  return packetTests.flatMap(({ value: { packet, expect, stage }, locate }) => {
    const own = [...packetIssues(packet, locate)];
    if (!allRead) return own;
    const given = packet.given.map(({ server }, i) => ({
      name: server,
      place: () => locate('packet', 'given', i, 'server'),
    }));
    const filter = (action: 'allow' | 'drop') => {
      const name = expect[action];
      if (name === undefined) return [];
      const place = () => locate('expect', action);
      const notEnforced = `filter "${name}" is staged; a test of it says stage: true, too`;
      if (staged.has(name) && !stage) return [{ ...place(), message: notEnforced }];
      return unknown(action === 'allow' ? 'allow filter' : 'drop filter or reason', [{ name, place }], known[action]);
    };
    return [...own, ...unknown('server', given, known.server), ...filter('allow'), ...filter('drop')];
  });
}
