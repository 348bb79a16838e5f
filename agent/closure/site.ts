/**
 * What agent.yaml means on this host at a moment: which of its interfaces are
 * there, what the gate is built on, what the base is written from. An
 * interface that is not there closes what lies behind it and nothing else.
 */
import { type Config, type HookChoice, servicesOf } from '../config.ts';
import { sharedRealms } from '../core/address-plan.ts';
import type { Admission } from '../core/admissions.ts';
import {
  type Address,
  contains,
  type Endpoint,
  encloses,
  type Family,
  formatEndpoint,
  type Prefix,
} from '../core/net.ts';
import { covers } from '../core/trigger-plan.ts';
import type { Attributes, ExternalId, InnerAddress, MtcUserName, RealmName } from '../core/words.ts';
import type { Interfaces, XdpRefusal } from '../dataplane/attachment.ts';
import type { GateSetup } from '../dataplane/dataplane.ts';
import type { Host } from '../dataplane/iproute.ts';
import type { Link } from '../dataplane/rtnetlink.ts';
import type { XdpMode } from '../dataplane/tc.ts';
import { Apns } from '../directory/apns.ts';
import { type Binding, deviceOf } from '../directory/binding.ts';
import type { Places } from '../directory/claimed-ranges.ts';
import type { HolderAt, TriggeredAt } from '../inspector/packet-denial.ts';
import type { RecorderSetup } from '../nat/recorder-message.ts';
import { admissionsOf, echoAdmissionsOf } from '../policy/admissions.ts';
import { type GroupMember, groupsIn } from '../policy/filter-ruleset.ts';
import { isInGroup } from '../policy/groups.ts';
import type { Policy } from '../policy/policy.ts';
import type { BaseSetup } from '../policy/ruleset.ts';

/** An interface of agent.yaml that cannot be used, and the realm behind it; none: the outside. */
export interface Absence {
  readonly code: 'interfaceMissing' | 'interfaceUnsuitable';
  readonly interface: string;
  readonly realm?: RealmName;
  readonly why: string;
}

/** The interfaces that agent.yaml names, outside and of each realm. */
export interface Site {
  readonly outside: Link | undefined;
  readonly inside: ReadonlyMap<RealmName, Link>;
  readonly absent: readonly Absence[];
  /** All of this host: each may have addresses that must not be reached. */
  readonly links: readonly Link[];
  readonly routedByMore: readonly Family[];
}

/** Frames of `ether` have the header that the gate reads, those of `none` have none; others have one of their own. */
const SUITABLE = { outside: ['ether'], inside: ['ether', 'none'] } as const;

/** Where the gate may come to hang at XDP. */
export function mayHaveXdp(config: Config): readonly string[] {
  return [config.outside, ...config.inside].flatMap(({ interface: name, hook }) => (hook === 'tc' ? [] : name));
}

export function siteOf(config: Config, { links, routedByMore }: Host): Site {
  const absent: Absence[] = [];
  const find = (side: keyof typeof SUITABLE, name: string, realm?: RealmName): Link | undefined => {
    const link = links.find((one) => one.name === name);
    if (link && (SUITABLE[side] as readonly string[]).includes(link.kind)) return link;
    const [code, why] = link
      ? (['interfaceUnsuitable', `${side} cannot be ${name}: its frames are of kind ${link.kind}`] as const)
      : (['interfaceMissing', `there is no interface ${name}`] as const);
    absent.push({ code, interface: name, ...(realm && { realm }), why });
    return undefined;
  };
  const outside = find('outside', config.outside.interface);
  const inside = new Map<RealmName, Link>();
  for (const { realm, interface: name } of config.inside) {
    const link = find('inside', name, realm);
    if (link) inside.set(realm, link);
  }
  return { outside, inside, absent, links, routedByMore };
}

/** Where the gate hangs. */
export function gatePlaces(config: Config, { outside, inside }: Site): Interfaces {
  const place = (link: Link, asked: HookChoice) => {
    const { mode } = xdpChoice(asked, link);
    return { name: link.name, ifindex: link.ifindex, bare: link.kind === 'none', ...(mode && { xdp: mode }) };
  };
  return {
    ...(outside && { outside: place(outside, config.outside.hook) }),
    inside: config.inside.flatMap(({ realm, hook }) => {
      const link = inside.get(realm);
      return link ? place(link, hook) : [];
    }),
  };
}

/** Whether the gate is to hang at XDP of an interface, how, and why so. */
export function xdpChoice(
  asked: HookChoice,
  { name, kind, virtual, takesTags }: Link,
): { readonly mode?: XdpMode; readonly why: string } {
  if (asked === 'tc') return { why: 'as configured' };
  if (kind !== 'ether') return { why: 'its frames have no Ethernet header' };
  // Another VLAN's frame would pass for one of the interface's own.
  if (takesTags)
    return { why: `its hardware hides VLAN tags from XDP: ethtool -K ${name} rxvlan off rx-vlan-stag-hw-parse off` };
  if (asked === 'xdp') return { mode: 'native', why: 'as configured' };
  if (asked === 'xdp-generic') return { mode: 'generic', why: 'as configured' };
  // A veth hands over frames whose sums its peer left unfinished, and a VLAN's or a bridge's have been through a driver already.
  if (virtual !== undefined) return { why: `a ${virtual} gains nothing by it` };
  return { mode: 'native', why: 'its driver has it' };
}

/** Where agent.yaml asks for XDP and the interface is not fit for it, and why. */
export function xdpUnmet(config: Config, { outside, inside }: Site): readonly XdpRefusal[] {
  const at = (link: Link | undefined, asked: HookChoice): XdpRefusal[] => {
    if (!link || !(asked === 'xdp' || asked === 'xdp-generic')) return [];
    const { mode, why } = xdpChoice(asked, link);
    return mode ? [] : [{ interface: link.name, why }];
  };
  return [
    at(outside, config.outside.hook),
    ...config.inside.map(({ realm, hook }) => at(inside.get(realm), hook)),
  ].flat();
}

/** What the gate is built on that stands in no file. */
export interface GateNumbers {
  readonly realmId: (name: RealmName) => number;
  readonly identificationKey: bigint;
}

/** What the gate is built on. */
export function gateSetup(config: Config, site: Site, { realmId, identificationKey }: GateNumbers): GateSetup {
  const { outside, inside, links, routedByMore } = site;
  const insideIndices = new Set([...inside.values()].map(({ ifindex }) => ifindex));
  return {
    pool: config.pools.grants,
    outside: { ...wayOf(outside, config.outside.hook), routedByMore, nextHops: config.outside.nextHops },
    inside: config.inside.map(({ realm, prefixes, nextHops, hook, nat }) => ({
      ...wayOf(inside.get(realm), hook),
      routedByMore,
      realm: realmId(realm),
      prefixes,
      nextHops,
      translated: nat !== 'none',
    })),
    own: links.flatMap(({ ifindex, addresses, shared = [] }) =>
      [...addresses, ...shared].map(
        (address) => ({ address, on: insideIndices.has(ifindex) ? 'inside' : 'elsewhere' }) as const,
      ),
    ),
    services: servicesOf(config),
    orphanGraceSeconds: config.gate.orphanGraceSeconds,
    udpTombstoneSeconds: config.gate.udpTombstoneSeconds,
    onlyBound: config.gate.onlyBound,
    normalise: config.gate.normalise,
    identificationKey,
  };
}

function wayOf(link: Link | undefined, asked: HookChoice): Omit<GateSetup['outside'], 'nextHops' | 'routedByMore'> {
  return link
    ? { ifindex: link.ifindex, mtu: link.mtu, takesFrames: takesFrames(link, asked) }
    : { ifindex: undefined };
}

/** Whether XDP can redirect to an interface: as the kernel says; where it does not, whoever asks for XDP there does. */
export function takesFrames({ kind, takesFrames: said }: Link, asked: HookChoice): boolean {
  return kind === 'ether' && (said ?? asked === 'xdp');
}

/**
 * What an address is of this host's own, which no device can hold: packets to
 * it would end here. Undefined where it is none. Without `links`: by agent.yaml alone.
 */
export function ownUse(
  { triggers }: Pick<Config, 'triggers'>,
  links: readonly Pick<Link, 'name' | 'addresses'>[],
  { text }: Address,
): string | undefined {
  if (triggers?.sources.some((source) => source.text === text)) return `${text} is where triggers come from`;
  const link = links.find(({ addresses }) => addresses.some((own) => own.text === text));
  return link && `${text} is an address of this host (${link.name})`;
}

/** What the base is written from, beside the filters of the policy: who is in their groups. */
export interface FilterGround {
  readonly policy: Policy;
  readonly bound: Iterable<Pick<Binding, 'holder' | 'realm' | 'prefix'>>;
  readonly attributesOf: (device: ExternalId) => Attributes;
}

/** What the base is written from. */
export function baseSetup(config: Config, { outside, inside }: Site, ground: FilterGround): BaseSetup {
  const shared = sharedRealms(config.inside);
  return {
    outside: config.outside.interface,
    inside: config.inside.map((one) => {
      const ifindex = inside.get(one.realm)?.ifindex;
      return { ...one, shared: shared.has(one.realm), ...(ifindex !== undefined && { ifindex }) };
    }),
    present: [outside, ...inside.values()].flatMap((link) => (link ? link.name : [])),
    grants: grantsPrefixes(config),
    egress: config.pools.egress,
    services: config.services,
    management: config.radius?.listen ?? [],
    normalise: config.gate.normalise,
    ...(config.triggers && { triggers: config.triggers }),
    filters: ground.policy.filters,
    filterCopiesPerSecond: config.gate.sampledDenialsPerSecond,
    groups: groupMembers(config, ground),
    ...config.base,
  };
}

/** Who holds addresses, and whose devices those are. */
interface Holders {
  readonly holderOf: (inner: InnerAddress) => Pick<Binding, 'holder'> | undefined;
  readonly mtcUserOf: (device: ExternalId) => MtcUserName | undefined;
}

/** Whose trigger port an endpoint is, if it is one; where realms share the address, that is not said. */
export function triggeredAt(config: Config, holders: Holders): TriggeredAt {
  const holderAt = innerHolder(config.inside, holders);
  return ({ address, port }: Endpoint) => {
    const { triggers } = config;
    if (!triggers || !covers(triggers.ports, port)) return undefined;
    return triggers.sources.some(({ text }) => text === address.text) ? undefined : holderAt(address);
  };
}

/** Who has an address by which the outside knows devices; none where they are translated. */
export function ownAddressAt({ inside }: Config, holders: Holders): HolderAt {
  return innerHolder(
    inside.filter(({ nat }) => nat === 'none'),
    holders,
  );
}

/** Who holds an address by which the outside knows devices, and since when. */
export function ownHolder(
  { inside }: Config,
  { holderOf }: { readonly holderOf: (inner: InnerAddress) => Binding | undefined },
  address: Address,
): { readonly device: ExternalId | null; readonly sinceMs: number } | undefined {
  const realm = inside.find(({ nat, prefixes }) => nat === 'none' && prefixes.some((one) => contains(one, address)));
  const binding = realm && holderOf({ realm: realm.realm, address });
  return binding && { device: deviceOf(binding.holder) ?? null, sinceMs: binding.sinceMs };
}

function innerHolder(inside: Config['inside'], { holderOf, mtcUserOf }: Holders): HolderAt {
  return (address) => {
    const [realm, another] = inside.filter(({ prefixes }) => prefixes.some((one) => contains(one, address)));
    if (!realm) return undefined;
    const binding = another ? undefined : holderOf({ realm: realm.realm, address });
    const device = binding && deviceOf(binding.holder);
    if (device === undefined) return {};
    const mtcUser = mtcUserOf(device);
    return { device, ...(mtcUser !== undefined && { mtcUser }) };
  };
}

/** What standing filters let past the gate's guard, and whom it answers in the name of external addresses. */
export function admissions(config: Config, { filters }: Policy): readonly Admission[] {
  const realms = config.inside.flatMap(({ prefixes }) => prefixes);
  return [...admissionsOf(filters, realms), ...echoAdmissionsOf(filters, grantsPrefixes(config))];
}

/** Who is in the device groups that filters name, by the interface of the realm. */
export function groupMembers(config: Config, ground: FilterGround): Map<string, readonly GroupMember[]> {
  const { policy, attributesOf } = ground;
  const used = groupsIn(policy.filters).flatMap((name) => policy.deviceGroups.get(name) ?? []);
  if (used.length === 0) return new Map();
  const interfaces = new Map<string, string>(config.inside.map((one) => [one.realm, one.interface]));
  const members = new Map<string, GroupMember[]>(used.map(({ group }) => [group, []]));
  for (const { holder, realm, prefix } of ground.bound) {
    const name = interfaces.get(realm);
    const device = deviceOf(holder);
    if (name === undefined || !device) continue;
    let attributes: Attributes | undefined; // looked up where a group asks for them
    const facts = {
      externalId: device,
      get attributes() {
        attributes ??= attributesOf(device);
        return attributes;
      },
    };
    for (const group of used) if (isInGroup(group, facts)) members.get(group.group)?.push({ interface: name, prefix });
  }
  return members;
}

/** Where accounting may bind: the realms, and in them the pools of each client. */
export function accountingPlaces({ inside, radius }: Config): Places {
  const apns = new Apns(inside);
  const pools = new Map(radius?.clients.map(({ name, pools: own }) => [name, own]));
  const isWithin = (outer: readonly Prefix[], prefix: Prefix) => outer.some((one) => encloses(one, prefix));
  return {
    realmOfApn: (apn) => apns.realmOf(apn),
    realmsFor: (client, prefix) =>
      isWithin(pools.get(client) ?? [], prefix)
        ? inside.flatMap(({ realm, prefixes }) => (isWithin(prefixes, prefix) ? realm : []))
        : [],
  };
}

/** Both pools: nothing on this host answers for them. */
export function poolPrefixes(config: Config): readonly Prefix[] {
  return [...grantsPrefixes(config), ...config.pools.egress];
}

/** Of realms with nat: none: addresses by which the outside knows devices. */
export function ownPrefixes({ inside }: Config): readonly Prefix[] {
  return inside.flatMap(({ nat, prefixes }) => (nat === 'none' ? prefixes : []));
}

/** Which addresses are inside, and which stand for devices outside: where nothing is translated, their own. */
export function spacesOf(config: Config) {
  const inner = config.inside.flatMap(({ prefixes }) => prefixes);
  const external = [...grantsPrefixes(config), ...ownPrefixes(config)];
  return {
    isInner: (address: Address) => inner.some((one) => contains(one, address)),
    isExternal: (address: Address) => external.some((one) => contains(one, address)),
  };
}

export function grantsPrefixes({ pools: { grants } }: Config): readonly Prefix[] {
  return [...grants.ipv4, ...grants.ipv6];
}

/** Some seconds of ten thousand flows each that begin and end. */
const NAT_EVENTS_BYTES = 64 * 2 ** 20;

/** What the process is started with that keeps the NAT record. */
export function recorderSetup({ gateway, pools, natRecord }: Config, file: string, bootId: string): RecorderSetup {
  const { keepDays, keepMebibytes, syslog } = natRecord;
  return {
    ...{ file, gateway, bootId, socketBytes: NAT_EVENTS_BYTES },
    egress: pools.egress.map(({ text }) => text),
    keepMs: keepDays * 86_400_000,
    keepBytes: keepMebibytes * 2 ** 20,
    ...(syslog && { syslog: { ...syslog, collector: formatEndpoint(syslog.collector) } }),
  };
}
