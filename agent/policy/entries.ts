/**
 * What is written in rule files -> what the policy has of it, one entry after
 * the other. By now all of it is known to be in order (checks.ts).
 */
import { frozen } from '../core/document.ts';
import type { Sink } from '../core/sinks.ts';
import { type MtcUserName, type ServerName, TRIGGER_PAYLOAD_MOST } from '../core/words.ts';
import type { Certificate } from './certificate-holders.ts';
import { DAYS, type Hours } from './hours.ts';
import { walkedOf } from './packet-tests.ts';
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
import type { Entry, Written } from './rules.ts';
import type { WrittenTriggerRule } from './trigger-schema.ts';

export function serverOf({ name, value }: Entry<WrittenServer>): Server {
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
export function mtcUserOf({ name, value }: Entry<WrittenMtcUser>): MtcUser {
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

export function allowOf(
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

export function triggerAllowOf(
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

export function denyOf(
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

export function groupsOf({ servers, deviceGroups, serverGroups }: Written): Groups {
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

export function testOf({
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

export function triggerTestOf({
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

export function packetTestOf({
  name,
  value: { stage = false, packet, attributes = {}, expect },
  locate,
}: Entry<WrittenPacketTest>): PacketTest {
  const [verdict, by] = Object.entries(expect)[0] ?? [];
  return { name, place: locate(), staged: stage, packet: walkedOf(packet, attributes), expect: `${verdict} ${by}` };
}

export function byName<Named extends { readonly name: string }>(list: readonly Named[]): Named[] {
  return [...list].sort((a, b) => order(a.name, b.name));
}

function order(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
