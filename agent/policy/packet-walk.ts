/**
 * What the whole gateway would do with a packet: guards, grants, filters and
 * base, in the order in which they see it, each step with what was seen. For
 * the tests that operators write (packet-tests.ts) and `mtgate explain packet`.
 *
 * The packet is the first of its flow; one from a device that answers a grant
 * says so by its source port. A model: it decides nothing on the gateway.
 */
import { type Address, contains, type Family, type Prefix, prefix } from '../core/net.ts';
import type { PacketReason } from '../core/reasons.ts';
import { covers } from '../core/trigger-plan.ts';
import type { PortRange, RealmName, ServerName, Service } from '../core/words.ts';
import {
  BEGINNING_TYPES,
  describeFilter,
  dropOfGrant,
  type FilteredPacket,
  type FilterSite,
  type GivenGrant,
  judgePacket,
  matchesPacket,
  type WalkEnd,
  type WalkedPacket,
} from './filters.ts';
import { type DeviceFacts, isInGroup } from './groups.ts';
import type { Policy } from './policy.ts';

/** What agent.yaml says, where it is known. */
export interface WalkSite {
  readonly realms: readonly Prefix[];
  /** Where devices may not go by themselves. */
  readonly denied: readonly Prefix[];
  /** In which devices can begin flows. */
  readonly egress: readonly Family[];
  /** Both pools: what answers there are flows, and nothing begins toward them. */
  readonly pools: readonly Prefix[];
  /** Ports of devices that take triggers and nothing else. */
  readonly triggerPorts?: readonly PortRange[];
  readonly inside?: readonly WalkRealm[];
  /** What devices may reach on the gateway itself. */
  readonly services?: readonly Service[];
}

/** A realm: whether the outside knows its devices by their own addresses, and whether another realm has some of them. */
export interface WalkRealm {
  readonly realm: RealmName;
  readonly prefixes: readonly Prefix[];
  readonly nat?: 'none';
  readonly shared: boolean;
}

export type WalkOutcome =
  | { readonly verdict: 'drop'; readonly by: PacketReason | 'base' | { readonly filter: string } }
  | { readonly verdict: 'allow'; readonly by: { readonly filter: string } }
  | { readonly verdict: 'pass'; readonly by: 'grant' | 'base' };

type Step = 'guards' | 'grant' | 'filters' | 'base';

export interface Walk {
  readonly outcome: WalkOutcome;
  readonly lines: readonly { readonly step: Step; readonly seen: string; readonly passed: boolean }[];
}

/** What all on a link hear. */
const OF_ALL = ['224.0.0.0/4', '255.255.255.255/32', 'ff00::/8'].map(prefix);
/** The stack forwards nothing there, and drops it before the filters. (It does forward to `::`.) */
const NO_DESTINATIONS = [...OF_ALL, ...['0.0.0.0/32', '127.0.0.0/8', '::1/128'].map(prefix)];
/** Nor from there. */
const NO_SOURCES = [...NO_DESTINATIONS, ...['::/128', 'fe80::/10'].map(prefix)];
/** What the gate lets nobody outside be: of 0.0.0.0/8 all, which the stack forwards since Linux 5.3. */
const IMPOSSIBLE = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255/32', '::/127', 'ff00::/8'].map(prefix);

export function walkPacket(policy: Policy, packet: WalkedPacket, site?: WalkSite): Walk {
  const lines: Walk['lines'][number][] = [];
  const went = (step: Step, seen: string) => void lines.push({ step, seen, passed: true });
  const ends = (step: Step, seen: string, outcome: WalkOutcome): Walk => {
    lines.push({ step, seen, passed: outcome.verdict !== 'drop' });
    return { outcome, lines };
  };
  const denied = (step: Step, reason: PacketReason | 'base', seen: string) =>
    ends(step, seen, { verdict: 'drop', by: reason });

  const { from, to, given } = packet;
  const family = familyOf(packet);
  const filtered: FilteredPacket & { readonly from: WalkEnd; readonly to: WalkEnd } = { ...packet, family };
  const groups: FilterSite<WalkEnd> = {
    isInGroup: (name, { device }) => {
      const group = policy.deviceGroups.get(name);
      return group !== undefined && device !== undefined && isInGroup(group, device);
    },
  };
  const judged = () => judgePacket(policy.filters, filtered, groups);
  const admitting = () =>
    policy.filters.find((one) => one.action === 'allow' && !one.staged && matchesPacket(one, filtered, groups));
  const byFilter = (): Walk | undefined => {
    const said = judged();
    if (said.verdict === 'none') return undefined;
    const { filter, verdict } = said;
    return ends('filters', `${verdict} ${filter.id}: ${describeFilter(filter)}`, {
      verdict,
      by: { filter: filter.id },
    });
  };
  const isInner = (address: Address | undefined) =>
    address !== undefined && (site?.realms.some((realm) => contains(realm, address)) ?? false);

  const isOf = (prefixes: readonly Prefix[], address: Address | undefined) =>
    address !== undefined && prefixes.some((one) => contains(one, address));

  const realms = site?.inside ?? [];
  const untranslated = realms.flatMap(({ nat, prefixes }) => (nat === 'none' ? prefixes : []));
  /** Whether what it begins needs an address of the egress pool. Where a device is only named: unless none does. */
  const isHidden = from.address
    ? !isOf(untranslated, from.address)
    : realms.length === 0 || realms.some(({ nat }) => nat !== 'none');

  const hasPorts = packet.protocol === 'tcp' || packet.protocol === 'udp';
  const isTriggerPort = (port: number | undefined) =>
    hasPorts && port !== undefined && covers(policy.triggerPorts, port);
  const unauthorised = (step: Step) =>
    denied(
      step,
      'unauthorisedTrigger',
      `port ${packet.port} of devices takes triggers of the gateway and nothing else`,
    );

  if (to.side === 'inside' && (from.side === 'inside' || to.address) && isTriggerPort(packet.port)) {
    const isSpoofed =
      from.side === 'outside' && from.address && (isOf(IMPOSSIBLE, from.address) || isInner(from.address));
    // What the gate lets on is the stack's to drop, before the base has its say.
    const isNowhere =
      from.side === 'outside' &&
      isOf(NO_SOURCES, from.address) &&
      (isOf(untranslated, to.address) || admitting() !== undefined);
    if (!isSpoofed && !isNowhere) return unauthorised('guards');
  }
  if (from.side === 'inside' && to.side === 'inside')
    return denied('guards', 'deviceToDevice', 'devices are kept apart');
  if (from.side === 'outside') {
    if (to.device && !to.address) return towardGrant(to.device);
    if (from.address && (isOf(IMPOSSIBLE, from.address) || isInner(from.address)))
      return denied('guards', 'spoofedSource', `${from.address.text} is no source of the outside`);
    if (isOf(untranslated, to.address)) {
      went('guards', 'to a realm with nat: none, left to the base');
      if (isOf(NO_SOURCES, from.address)) return nowhere(from.address);
      const said = byFilter();
      return said ?? denied('base', 'unsolicited', "to a device's own address, and neither granted nor an answer");
    }
    // The gate admits what an allow names; whether a flow begins so is the base's to say.
    const lets = admitting();
    if (!lets) return denied('guards', 'realmDestination', 'addressed to the inside, and no allow lets it begin there');
    went('guards', `admitted for allow ${lets.id}`);
    if (isOf(NO_SOURCES, from.address)) return nowhere(from.address);
    return byFilter() ?? denied('base', 'base', 'what the outside begins is closed');
  }

  const isGrantable = from.device !== undefined && !isTriggerPort(packet.sourcePort);
  const answered = isGrantable ? grantOf(from.device as DeviceFacts, packet.sourcePort, to.address) : undefined;
  if (answered) return carried(answered, from.device as DeviceFacts, 'answers a grant');
  if (isOf(OF_ALL, to.address) && !isService(packet, site))
    return denied('guards', 'gatewayService', `${to.address?.text} is heard by the gateway, and by devices`);
  went('guards', 'not to the gateway, nor to a device');
  went('grant', given.length > 0 ? 'answers none of those given' : 'none is given');
  if (isOf(NO_SOURCES, from.address)) return nowhere(from.address);
  if (isOf(NO_DESTINATIONS, to.address)) return nowhere(to.address);
  if (to.address && site?.pools.some((one) => contains(one, to.address as Address)))
    return denied('base', 'base', `${to.address.text} is of a pool: nothing begins toward it`);
  if (isTriggerPort(packet.sourcePort))
    return denied('base', 'base', `a device begins nothing from its trigger port ${packet.sourcePort}`);
  const drop = judged();
  if (drop.verdict === 'drop') return byFilter() as Walk;
  if (site && from.address && !isInner(from.address))
    return denied('base', 'base', `${from.address.text} is no address of a realm`);
  if (site && isHidden && !site.egress.includes(family))
    return denied('base', 'base', `the egress pool has no ${family} address`);
  const allowed = byFilter();
  if (allowed) return allowed;
  went('filters', 'none speaks of it');
  if (to.address && site?.denied.some((one) => contains(one, to.address as Address)))
    return denied('base', 'base', `${to.address.text} is in deniedDestinations`);
  const { protocol, type } = packet;
  const isPing = (protocol === 'icmp' || protocol === 'icmpv6') && type === BEGINNING_TYPES[protocol][0];
  if (protocol !== 'tcp' && protocol !== 'udp' && !isPing)
    return denied('base', 'base', 'devices begin TCP, UDP and pings, and nothing else');
  return ends('base', 'a device may begin it', { verdict: 'pass', by: 'base' });

  function nowhere(address: Address | undefined): Walk {
    return denied('base', 'base', `${address?.text} is nowhere: the host drops it before any filter`);
  }

  /** To the endpoint that stands for a device. */
  function towardGrant(device: DeviceFacts): Walk {
    const { protocol, port } = packet;
    if (protocol !== 'tcp' && protocol !== 'udp')
      return denied('grant', 'protocolNotCarried', 'grants carry TCP and UDP');
    if (isTriggerPort(port))
      return denied('grant', 'noGrant', `port ${port} takes triggers and nothing else: no grant is open there`);
    const toward = given.filter(
      (one) => one.device === device.externalId && one.protocol === protocol && one.port === port,
    );
    if (toward.length === 0)
      return denied('grant', 'noGrant', `no grant on ${device.externalId}, ${protocol} port ${port}, is given`);
    // Each server has an endpoint of its own for the device: what it sends goes to that one.
    const own = toward.find(({ server }) => isSource(server, from.address));
    if (!own) {
      const servers = toward.map(({ server }) => server).join(' or ');
      return denied('grant', 'wrongSource', `${from.address?.text} is no source of ${servers}`);
    }
    return carried(own, device, 'has a grant');
  }

  function grantOf(device: DeviceFacts, port: number | undefined, remote: Address | undefined) {
    return given.find(
      (one) =>
        one.device === device.externalId &&
        one.protocol === packet.protocol &&
        one.port === port &&
        isSource(one.server, remote),
    );
  }

  /** Carried by a grant; which is none if a drop meets what it would carry. */
  function carried(grant: GivenGrant, device: DeviceFacts, seen: string): Walk {
    const { server, protocol, port } = grant;
    const remote = from.side === 'outside' ? from : to;
    const remotePort = from.side === 'outside' ? packet.sourcePort : packet.port;
    const remotes = (policy.servers.get(server)?.sources ?? []).filter(
      (one) => remote.address && contains(one, remote.address),
    );
    const flow = { family, protocol, device: undefined, devicePort: port, remotes, remotePort };
    const drop = dropOfGrant(policy.filters, flow, {
      isInGroup: (name) => groups.isInGroup(name, { side: 'inside', device }),
    });
    if (drop) {
      const why = `drop ${drop.id} meets what the grant would carry: it is refused`;
      return ends('filters', why, { verdict: 'drop', by: { filter: drop.id } });
    }
    return ends('grant', `${seen} of ${server}`, { verdict: 'pass', by: 'grant' });
  }

  function isSource(server: ServerName, address: Address | undefined): boolean {
    const sources = policy.servers.get(server)?.sources ?? [];
    return address !== undefined && sources.some((source) => contains(source, address));
  }
}

/** IPv4 where neither end nor protocol says. */
function familyOf({ from, to, protocol }: WalkedPacket): Family {
  return from.address?.family ?? to.address?.family ?? (protocol === 'icmpv6' ? 'ipv6' : 'ipv4');
}

/** The outcome as tests name it: `drop bogons-in`, `pass grant`. */
export function outcomeText({ verdict, by }: WalkOutcome): string {
  return `${verdict} ${typeof by === 'object' ? by.filter : by}`;
}

function isService({ protocol, port, type }: WalkedPacket, site: WalkSite | undefined): boolean {
  const isPing = type === 8 || type === 128;
  return (site?.services ?? []).some(
    (one) => one.protocol === protocol && (one.port === port || (one.port === 0 && isPing)),
  );
}
