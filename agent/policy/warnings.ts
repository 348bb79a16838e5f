/**
 * What is right, but surely not meant, or meant less wide: rules that can
 * never match, rules that open much, hours that say nothing, and names that
 * stand for nothing. Nothing here stops a policy.
 */
import type { Issue } from '../core/document.ts';
import { meet, portsText } from '../core/trigger-plan.ts';
import type { PortRange, ServerName } from '../core/words.ts';
import { type Pushes, SHARES, sinksIn } from './checks.ts';
import { filterWarnings } from './filter-files.ts';
import { type DeviceFacts, type DeviceSelector, isSelected, patternsOf, selectorText } from './groups.ts';
import { ALL_DAY, type Hours, hoursText, neverCloses } from './hours.ts';
import { PatternIndex } from './pattern-index.ts';
import { type DevicePattern, devicesOverlap } from './patterns.ts';
import type { AllowRule, DenyRule, Match, MtcUser, Policy, TriggerAllow } from './policy.ts';
import type { Written } from './rules.ts';

/** So many ports are more than any service of a device needs. */
const MANY_PORTS = 1024;
const ALL_PORTS: readonly PortRange[] = [{ low: 1, high: 65_535 }];

/** What the rules are held against beside each other; absent where it is not known. */
interface Around {
  /** Of the devices file. */
  readonly devices?: readonly DeviceFacts[] | undefined;
  readonly pushes?: Pushes | undefined;
  /** Of agent.yaml. */
  readonly triggerPorts?: readonly PortRange[] | undefined;
}

/** With all that is staged taken as enforced. */
export function findWarnings(policy: Policy, written: Written, { devices, pushes, triggerPorts }: Around): Issue[] {
  const all = policy.staged ?? policy;
  const isAuthorised = authorisations(all);
  return [
    ...all.allows.flatMap((allow) =>
      warned('', allow, [
        ...neverMatches(allow, all.denies, isAuthorised),
        ...triggersOnly(allow, all),
        ...isWide(allow),
        ...oddHours(allow),
        ...tooShortHours(allow),
      ]),
    ),
    ...all.denies.flatMap((deny) => warned('', deny, [...unauthorised(deny, isAuthorised), ...oddHours(deny)])),
    ...all.triggerAllows.flatMap((allow) =>
      warned('trigger ', allow, [
        ...neverMatches(allow, all.triggerDenies, isAuthorised),
        ...(triggerPorts ? withoutTriggers(allow, triggerPorts) : []),
        ...namesNobody(allow),
        ...oddHours(allow),
      ]),
    ),
    ...all.triggerDenies.flatMap((deny) =>
      warned('trigger ', deny, [...unauthorised(deny, isAuthorised), ...oddHours(deny)]),
    ),
    ...emptyGroups(all, written),
    ...filterWarnings(policy.filters),
    ...towardTriggerPorts(policy),
    ...withoutSomeRealms(policy, written),
    ...(devices ? unmatched(all, written, devices) : []),
    ...(pushes && !pushes.signed ? unsigned(written) : []),
  ];
}

function unsigned(written: Written): Issue[] {
  const message = 'nothing is pushed to sinks: agent.yaml has no reports.signingKey';
  return sinksIn(written).map(({ place }) => ({ ...place(), message }));
}

/** A rule on grants, or on triggers. */
type AnyAllow = AllowRule | TriggerAllow;

function warned(kind: string, { action, id, place }: AnyAllow | DenyRule, texts: readonly string[]): Issue[] {
  return texts.map((text) => ({ ...place, message: `${kind}${action} "${id}" ${text}` }));
}

function neverMatches(allow: AnyAllow, denies: readonly DenyRule[], isAuthorised: IsAuthorised): string[] {
  const deny = coveringDenies(allow, denies).find((one) => covers(one, allow));
  if (deny) return [`can never grant: deny "${deny.id}" covers all of it`];
  return unauthorised(allow, isAuthorised);
}

function triggersOnly({ match }: AllowRule, { triggerPorts }: Policy): string[] {
  const isSo = match.ports?.every((range) => isWithin(range, triggerPorts));
  return isSo ? ['can never grant: its ports take triggers and nothing else (triggers.ports of agent.yaml)'] : [];
}

/** Ports to which this gateway sends no triggers, whatever a rule says. */
function withoutTriggers({ match: { ports } }: TriggerAllow, triggerPorts: readonly PortRange[]): string[] {
  if (triggerPorts.length === 0) return ['never sends: agent.yaml has no triggers'];
  const outside = ports?.filter((range) => !isWithin(range, triggerPorts)) ?? [];
  if (outside.length === 0) return [];
  const what = meet(ports ?? ALL_PORTS, triggerPorts) ? 'names ports that take no triggers' : 'never sends';
  return [`${what}: ${portsText(outside)} outside triggers.ports of agent.yaml`];
}

type IsAuthorised = (match: Match) => boolean;

function unauthorised({ match }: AnyAllow | DenyRule, isAuthorised: IsAuthorised): string[] {
  return isAuthorised(match) ? [] : ['can never match: no MTC user authorises its servers for its devices'];
}

/** Whether some MTC user authorises one of the servers of a match for one of its devices; indexed, since each rule asks. */
function authorisations({ mtcUsers }: Policy): IsAuthorised {
  const owned = new PatternIndex<{ readonly pattern: DevicePattern; readonly user: MtcUser }[]>(() => []);
  const authorised = new Map<MtcUser, ReadonlySet<ServerName>>();
  const byServer = new Map<ServerName, MtcUser>(); // one of those that authorise it
  for (const user of mtcUsers.values()) {
    authorised.set(user, new Set(user.authorises));
    for (const server of user.authorises) byServer.set(server, user);
    for (const pattern of user.devices) owned.at(pattern).push({ pattern, user });
  }
  const isOf = (user: MtcUser, servers: readonly ServerName[] | undefined) => {
    const known = authorised.get(user);
    return servers ? servers.some((server) => known?.has(server)) : user.authorises.length > 0;
  };
  return ({ servers, devices }) => {
    const patterns = devices?.map(patternsOf);
    if (!patterns?.every((one) => one !== undefined))
      return servers ? servers.some((server) => byServer.has(server)) : byServer.size > 0;
    return patterns
      .flat()
      .some((wanted) =>
        owned
          .overlapping(wanted)
          .some((slot) => slot.some(({ pattern, user }) => isOf(user, servers) && devicesOverlap(pattern, wanted))),
      );
  };
}

/** Denies by a server that they name, and those that name none; made once for a policy, since it is asked for each allow. */
const deniesByServer = new WeakMap<readonly DenyRule[], Map<string | undefined, DenyRule[]>>();

function coveringDenies({ match }: AnyAllow, denies: readonly DenyRule[]): readonly DenyRule[] {
  let byServer = deniesByServer.get(denies);
  if (!byServer) {
    byServer = new Map();
    for (const deny of denies) {
      for (const server of deny.match.servers ?? [undefined])
        byServer.set(server, [...(byServer.get(server) ?? []), deny]);
    }
    deniesByServer.set(denies, byServer);
  }
  const [server] = match.servers ?? [];
  return [...(byServer.get(undefined) ?? []), ...((server && byServer.get(server)) ?? [])];
}

/** Whether all that an allow matches a deny does, at any time and whatever its condition. */
function covers(deny: DenyRule, allow: AnyAllow): boolean {
  if (deny.hours && !(allow.hours && hoursText(deny.hours) === hoursText(allow.hours))) return false;
  if (deny.when && deny.when.text !== allow.when?.text) return false;
  return coversMatch(deny.match, allow.match);
}

function coversMatch(wide: Match, narrow: Match): boolean {
  const { servers, devices, protocols, ports } = wide;
  if (ports && !(narrow.ports ?? ALL_PORTS).every((range) => isWithin(range, ports))) return false;
  if (protocols && !(narrow.protocols ?? ['tcp', 'udp']).every((protocol) => protocols.includes(protocol as never))) {
    return false;
  }
  if (servers && !narrow.servers?.every((server) => servers.includes(server))) return false;
  return !devices || (narrow.devices?.every((one) => devices.some((other) => coversSelector(other, one))) ?? false);
}

/** The same, or a pattern for all names of a domain; what else covers what is not looked for. */
function coversSelector(wide: DeviceSelector, narrow: DeviceSelector): boolean {
  if (selectorText(wide) === selectorText(narrow)) return true;
  if ('group' in wide || wide.local.text !== '*') return false;
  return patternsOf(narrow)?.every((one) => coversDomain(wide, one)) ?? wide.text === '*@*';
}

function coversDomain(wide: DevicePattern, narrow: DevicePattern): boolean {
  if (!wide.subdomains) return !narrow.subdomains && wide.domain === narrow.domain;
  if (wide.domain === '') return true;
  return narrow.domain.endsWith(`.${wide.domain}`) || (narrow.subdomains && narrow.domain === wide.domain);
}

function isWithin({ low, high }: PortRange, ranges: readonly PortRange[]): boolean {
  let from = low;
  for (const range of [...ranges].sort((a, b) => a.low - b.low)) {
    if (range.low <= from && from <= range.high) from = range.high + 1;
  }
  return from > high;
}

function namesNobody({ match: { servers, devices } }: AnyAllow): string[] {
  return servers || devices ? [] : ['is wide: it names neither servers nor devices'];
}

function isWide(allow: AllowRule): string[] {
  const { ports = ALL_PORTS } = allow.match;
  const count = ports.reduce((sum, { low, high }) => sum + high - low + 1, 0);
  return [
    ...namesNobody(allow),
    ...(count > MANY_PORTS ? [`is wide: it opens more than ${MANY_PORTS} ports; name those that are needed`] : []),
  ];
}

/** What an allow opens beside is open; to a trigger port it never leads. */
function towardTriggerPorts({ filters, triggerPorts }: Policy): Issue[] {
  return filters.flatMap(({ id, action, staged, protocol, ports, to, place }) => {
    const isInward = !to || to.sides.includes('inside') || to.groups.length > 0 || to.prefixes.length > 0;
    if (
      action !== 'allow' ||
      staged ||
      !isInward ||
      !(protocol === undefined || protocol === 'tcp' || protocol === 'udp')
    )
      return [];
    const met = triggerPorts.filter((range) => !ports || meet([range], ports));
    if (met.length === 0) return [];
    const what = ports?.every((range) => isWithin(range, triggerPorts)) ? 'opens nothing' : 'leads to no device there';
    return {
      ...place,
      message: `allow "${id}" ${what}: ${portsText(met)} take triggers and nothing else (triggers.ports of agent.yaml)`,
    };
  });
}

/** Realms in which a server with `nat: none` gets no grant. */
function withoutSomeRealms({ sharedRealms }: Policy, written: Written): Issue[] {
  return written.servers.flatMap(({ name, value, locate }) =>
    value.nat !== 'none'
      ? []
      : sharedRealms.map((realm) => ({
          ...locate('nat'),
          message: `server "${name}" gets no grant in realm ${realm}: it ${SHARES}`,
        })),
  );
}

function oddHours({ hours }: AnyAllow | DenyRule): string[] {
  return hours && neverCloses(hours) ? ['has hours that are all hours; leave them out'] : [];
}

function tooShortHours({ hours, limits: { durationSeconds: limit } }: AllowRule): string[] {
  if (!hours || neverCloses(hours)) return [];
  const longest = longestSeconds(hours);
  if (limit <= longest) return [];
  return [`never grants its durationSeconds of ${limit}: its hours close after ${longest} s`];
}

/** Of one window; of several that touch no bound is known. */
function longestSeconds({ from, to, days }: Hours): number {
  const minutes = to > from ? to - from : to + ALL_DAY - from;
  return days.length > 1 && minutes >= ALL_DAY ? Number.POSITIVE_INFINITY : minutes * 60;
}

function emptyGroups({ serverGroups }: Policy, written: Written): Issue[] {
  return written.serverGroups.flatMap(({ name, locate }) =>
    serverGroups.get(name)?.length === 0 ? { ...locate(), message: `group "${name}" has no server` } : [],
  );
}

/** Patterns and groups that stand for no device of the devices file. */
function unmatched({ deviceGroups }: Policy, written: Written, devices: readonly DeviceFacts[]): Issue[] {
  const known = new Map<string, boolean>();
  const matchesNone = (selector: DeviceSelector) => {
    const text = selectorText(selector);
    const found = known.get(text) ?? devices.some((device) => isSelected(selector, device));
    known.set(text, found);
    return !found;
  };
  const patterns = [
    ...[...written.mtcUsers, ...written.deviceGroups].flatMap(({ value, locate }) =>
      (value.devices ?? []).map((pattern, i) => ({ pattern, place: () => locate('devices', i) })),
    ),
    ...[...written.rules, ...written.triggers].flatMap(({ value, locate }) =>
      (['allow', 'deny'] as const).flatMap((action) =>
        (value[action]?.devices ?? []).flatMap((pattern, i) =>
          'group' in pattern ? [] : { pattern, place: () => locate(action, 'devices', i) },
        ),
      ),
    ),
  ];
  return [
    ...patterns.flatMap(({ pattern, place }) =>
      matchesNone(pattern) ? { ...place(), message: `"${pattern.text}" matches no device of the devices file` } : [],
    ),
    ...written.deviceGroups.flatMap(({ name, locate }) => {
      const group = deviceGroups.get(name);
      return group && matchesNone(group)
        ? { ...locate(), message: `group "${name}" has no device of the devices file` }
        : [];
    }),
  ];
}
