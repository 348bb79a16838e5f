/**
 * Rule files -> Policy: read, held against each other and against the
 * gateway, and frozen; or every issue. Nothing is compiled by halves: a
 * policy with an issue is no policy, and the one in force stays.
 */

import { ADMISSIONS_MAX } from '../core/admissions.ts';
import { byPlace, frozen, type Issue } from '../core/document.ts';
import type { Owned } from '../core/overlaps.ts';
import type { Sink } from '../core/sinks.ts';
import { type MtcUserName, type ServerName, TRIGGER_PAYLOAD_MOST } from '../core/words.ts';
import { uncontained } from './admissions.ts';
import { type Certificate, holdersOf } from './certificate-holders.ts';
import { findIssues, type Pushes, realmlessIssues } from './checks.ts';
import { type FilterGroups, filterOf } from './filter-files.ts';
import type { Filter } from './filters.ts';
import type { DeviceFacts } from './groups.ts';
import { DAYS, type Hours } from './hours.ts';
import { walkedOf } from './packet-tests.ts';
import type { WalkSite } from './packet-walk.ts';
import { type DevicePattern, exactly, matchesName } from './patterns.ts';
import {
  type AllowRule,
  type DenyRule,
  type Match,
  type MtcUser,
  NO_TRIGGER_USAGE,
  NO_USAGE,
  type PacketTest,
  type Policy,
  type PolicyTest,
  type Server,
  type TriggerAllow,
  type TriggerTest,
} from './policy.ts';
import type { GroupName } from './rule-members.ts';
import type {
  WrittenCertificate,
  WrittenMtcUser,
  WrittenPacketTest,
  WrittenRule,
  WrittenServer,
  WrittenTest,
  WrittenTriggerTest,
} from './rule-schema.ts';
import { type Entry, type RuleFile, readRules, type Written } from './rules.ts';
import type { WrittenTriggerRule } from './trigger-schema.ts';
import { findWarnings } from './warnings.ts';

/** What the rules are held against; absent where it is not known, as in a check without agent.yaml. */
export interface Surroundings {
  /** Names of the trusted client CAs. */
  readonly authorities?: readonly string[];
  /** What pushes to sinks rest on: the names of their CAs, and whether there is a key to sign with. */
  readonly pushes?: Pushes;
  /** The gateway's own address spaces. */
  readonly ownSpaces?: readonly Owned[];
  /** What packets meet there. */
  readonly site?: WalkSite;
  /** What the devices file says; only to warn of what stands for none of them. */
  readonly devices?: readonly DeviceFacts[];
  /** SHA-256 of a text, in hex. */
  readonly digest: (text: string) => string;
}

export type Compilation =
  | { readonly policy: Policy; readonly warnings: readonly Issue[] }
  | { readonly issues: readonly Issue[] };

/** Hex digits of a version: enough that no two policies of one gateway share one. */
const VERSION_LENGTH = 16;

export function compilePolicy(files: readonly RuleFile[], surroundings: Surroundings): Compilation {
  const reading = readRules(files);
  const { written } = reading;
  const groups = groupsOf(written);
  const filterGroups: FilterGroups = {
    devices: new Set(groups.deviceGroups.keys()),
    servers: new Map(
      [...groups.serverGroups].map(([group, names]) => [
        group,
        written.servers.flatMap(({ name, value }) => (names.includes(name as ServerName) ? value.sources : [])),
      ]),
    ),
  };
  const realms = surroundings.site?.inside ?? [];
  const { authorities, ownSpaces = [] } = surroundings;
  const issues = [
    ...findIssues(reading, authorities, ownSpaces, filterGroups, surroundings.pushes),
    ...realmlessIssues(written, realms),
  ];
  if (issues.length > 0) return { issues: issues.sort(byPlace) };

  const servers = byName(written.servers.map(serverOf));
  const mtcUsers = byName(written.mtcUsers.map(mtcUserOf));
  const parties = {
    servers: new Map(servers.map((server) => [server.name, frozen(server)])),
    mtcUsers: new Map(mtcUsers.map((user) => [user.name, frozen(user)])),
  };
  const rest = {
    ...parties,
    ...groups,
    holders: holdersOf(servers, mtcUsers),
    tests: written.tests.map(testOf),
    triggerTests: written.triggerTests.map(triggerTestOf),
    packetTests: written.packetTests.map(packetTestOf),
  };
  const triggerPorts = surroundings.site?.triggerPorts ?? [];
  const untranslatedRealms = realms.flatMap(({ realm, nat }) => (nat === 'none' ? realm : []));
  const sharedRealms = realms.flatMap(({ realm, shared }) => (shared ? realm : []));
  const someSeeInside = servers.some(({ nat }) => nat === 'none');
  const withRules = (
    rules: readonly Entry<WrittenRule>[],
    triggers: readonly Entry<WrittenTriggerRule>[],
    filters: readonly Filter[],
    staged?: Policy,
  ): Policy => {
    const allows = rules.flatMap((rule) => allowOf(rule, groups));
    const denies = rules.flatMap((rule) => denyOf(rule, groups));
    const triggerAllows = triggers.flatMap((rule) => triggerAllowOf(rule, groups));
    const triggerDenies = triggers.flatMap((rule) => denyOf(rule, groups));
    const ruled = { allows, denies, triggerAllows, triggerDenies, filters };
    const said = {
      ...{ servers, mtcUsers, ...groups, ...ruled },
      // What says nothing is left out: as if there were no agent.yaml.
      ...(triggerPorts.length > 0 && { triggerPorts }),
      ...(untranslatedRealms.length > 0 && { untranslatedRealms }),
      ...(someSeeInside && sharedRealms.length > 0 && { sharedRealms }),
      ...(staged && { staged: staged.version }),
    };
    return frozen({
      version: surroundings.digest(canonical(said)).slice(0, VERSION_LENGTH),
      ...rest,
      ...ruled,
      triggerPorts,
      untranslatedRealms,
      sharedRealms,
      readsAttributes: [...allows, ...denies].some(readsAttributes) || filters.some(namesGroup),
      ...(staged && { staged }),
    });
  };
  const rules = byName(written.rules);
  const triggers = byName(written.triggers);
  const [enforced, enforcedTriggers] = [rules.filter(isEnforced), triggers.filter(isEnforced)];
  const filters = byName(written.filters).map((filter) => filterOf(filter, filterGroups));
  const crowd = uncontained(filters, surroundings.site?.realms ?? []);
  if (crowd) {
    const { filter, source } = crowd;
    const cure = 'join ranges of ports, or prefixes of `to`';
    const message = `allow "${filter.id}" opens more from ${source.text}, together with others, than the gate has room for (${ADMISSIONS_MAX}); ${cure}`;
    return { issues: [{ ...filter.place, message }] };
  }
  const isStaged =
    enforced.length < rules.length || enforcedTriggers.length < triggers.length || filters.some(({ staged }) => staged);
  const allEnforced = () =>
    withRules(
      rules,
      triggers,
      filters.map((filter) => ({ ...filter, staged: false })),
    );
  const policy = withRules(enforced, enforcedTriggers, filters, isStaged ? allEnforced() : undefined);
  const { devices, pushes, site } = surroundings;
  const around = { devices, pushes, triggerPorts: site?.triggerPorts };
  return { policy, warnings: findWarnings(policy, written, around).sort(byPlace) };
}

function isEnforced({ value }: Entry<{ readonly stage?: boolean }>): boolean {
  return !value.stage;
}

function serverOf({ name, value }: Entry<WrittenServer>): Server {
  const { certificates, sources, apiSources = sources, nat, sinks } = value;
  return {
    name: name as ServerName,
    certificates: certificates.map(certificateOf),
    sources,
    apiSources,
    ...(nat && { nat }),
    ...(sinks && { sinks: sinksOf(sinks) }),
  };
}

/** Without mayAuthorise, an MTC user may authorise the servers of its start set and no others. */
function mtcUserOf({ name, value }: Entry<WrittenMtcUser>): MtcUser {
  const { certificates = [], apiSources, devices, authorises, mayAuthorise = authorises.map(exactly), sinks } = value;
  return {
    name: name as MtcUserName,
    certificates: certificates.map(certificateOf),
    devices,
    authorises,
    mayAuthorise,
    ...(apiSources && { apiSources }),
    ...(sinks && { sinks: sinksOf(sinks) }),
  };
}

function sinksOf(sinks: Readonly<Record<string, Omit<Sink, 'name'>>>): Sink[] {
  return byName(Object.entries(sinks).map(([name, sink]) => ({ name, ...sink })));
}

function certificateOf({ uri, issuer, sha256 }: WrittenCertificate): Certificate {
  if (sha256 !== undefined) return { sha256 };
  return { uri: uri ?? '', ...(issuer !== undefined && { issuer }) };
}

/** Groups with attributes, and conditions. */
function readsAttributes({ when, match }: AllowRule | DenyRule): boolean {
  if (when) return true;
  return match.devices?.some((selector) => 'group' in selector && selector.attributes !== undefined) ?? false;
}

function namesGroup({ from, to }: Filter): boolean {
  return [from, to].some((ends) => ends && ends.groups.length > 0);
}

function allowOf(
  { name, value: { allow, limits, hours, when }, locate }: Entry<WrittenRule>,
  groups: Groups,
): AllowRule[] {
  if (!allow || !limits) return [];
  const { applicationServer, ...match } = allow;
  const { totalSeconds = limits.durationSeconds } = limits;
  return [
    {
      id: name,
      place: locate(),
      action: 'allow',
      match: matchOf(match, groups),
      ...(hours && { hours: hoursOf(hours) }),
      ...(when && { when }),
      allApplicationServers: applicationServer === 'all',
      limits: { ...limits, totalSeconds },
    },
  ];
}

function triggerAllowOf(
  { name, value: { allow, limits, hours, when }, locate }: Entry<WrittenTriggerRule>,
  groups: Groups,
): TriggerAllow[] {
  if (!allow || !limits) return [];
  return [
    {
      id: name,
      place: locate(),
      action: 'allow',
      match: matchOf(allow, groups),
      ...(hours && { hours: hoursOf(hours) }),
      ...(when && { when }),
      limits: { payloadBytes: TRIGGER_PAYLOAD_MOST, ...limits },
    },
  ];
}

function denyOf(
  { name, value: { deny, hours, when }, locate }: Entry<WrittenRule | WrittenTriggerRule>,
  groups: Groups,
): DenyRule[] {
  if (!deny) return [];
  const { reason, ...match } = deny;
  const only = { ...(hours && { hours: hoursOf(hours) }), ...(when && { when }) };
  return [{ id: name, place: locate(), action: 'deny', match: matchOf(match, groups), ...only, reason }];
}

function hoursOf({ days = [...DAYS], ...rest }: NonNullable<WrittenRule['hours']>): Hours {
  return { ...rest, days: DAYS.filter((day) => days.includes(day)) };
}

function groupsOf({ servers, deviceGroups, serverGroups }: Written): Groups {
  const names = byName(servers).map(({ name }) => name as ServerName);
  return {
    deviceGroups: new Map(byName(deviceGroups).map(({ name, value }) => [name, frozen({ group: name, ...value })])),
    serverGroups: new Map(
      byName(serverGroups).map(({ name, value }) => [
        name,
        frozen(names.filter((one) => value.servers.some((pattern) => matchesName(pattern, one)))),
      ]),
    ),
  };
}

type Groups = Pick<Policy, 'deviceGroups' | 'serverGroups'>;

/** Groups take the place of their names; that they are there is known by now. */
function matchOf(
  { servers, devices, ...rest }: Omit<NonNullable<WrittenRule['deny']>, 'reason'>,
  { serverGroups, deviceGroups }: Groups,
): Match {
  const namesOf = (one: ServerName | GroupName) =>
    typeof one === 'string' ? [one] : (serverGroups.get(one.group) ?? []);
  const selectorsOf = (one: DevicePattern | GroupName) => ('group' in one ? (deviceGroups.get(one.group) ?? []) : one);
  return {
    ...rest,
    ...(servers && { servers: [...new Set(servers.flatMap(namesOf))] }),
    ...(devices && { devices: devices.flatMap(selectorsOf) }),
  };
}

function testOf({
  name,
  value: { stage = false, request, attributes = {}, now, usage, expect },
  locate,
}: Entry<WrittenTest>): PolicyTest {
  const { allow, refuse, durationSeconds } = expect;
  return {
    name,
    place: locate(),
    staged: stage,
    request,
    attributes,
    ...(now !== undefined && { nowMs: now }),
    usage: { ...NO_USAGE, ...usage },
    expect: refuse ? { refuse } : { allow: allow ?? '', ...(durationSeconds !== undefined && { durationSeconds }) },
  };
}

function triggerTestOf({
  name,
  value: { stage = false, trigger, attributes = {}, now, usage, expect },
  locate,
}: Entry<WrittenTriggerTest>): TriggerTest {
  const { allow, refuse } = expect;
  return {
    name,
    place: locate(),
    staged: stage,
    trigger,
    attributes,
    ...(now !== undefined && { nowMs: now }),
    usage: { ...NO_TRIGGER_USAGE, ...usage },
    expect: refuse ? { refuse } : { allow: allow ?? '' },
  };
}

function packetTestOf({
  name,
  value: { stage = false, packet, attributes = {}, expect },
  locate,
}: Entry<WrittenPacketTest>): PacketTest {
  const [verdict, by] = Object.entries(expect)[0] ?? [];
  return { name, place: locate(), staged: stage, packet: walkedOf(packet, attributes), expect: `${verdict} ${by}` };
}

function byName<Named extends { readonly name: string }>(list: readonly Named[]): Named[] {
  return [...list].sort((a, b) => order(a.name, b.name));
}

function order(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

/**
 * One text for one meaning: members by key, lists (all of them are sets) by
 * what is in them, prefixes and patterns by their text; where a rule stands
 * is no part of what it says. An attribute may be called `text` or `place`:
 * it has a list.
 */
function canonical(value: unknown): string {
  if (value instanceof Map) return canonical(Object.fromEntries(value));
  if (Array.isArray(value)) return `[${value.map(canonical).sort().join()}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if ('text' in value && typeof value.text === 'string') return JSON.stringify(value.text);
  const members = Object.entries(value).filter(([key, member]) => key !== 'place' || Array.isArray(member));
  return `{${members
    .map(([key, member]) => `${JSON.stringify(key)}:${canonical(member)}`)
    .sort()
    .join()}}`;
}
