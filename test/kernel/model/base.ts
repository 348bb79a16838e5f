/**
 * What base and filters say of a packet that is to be forwarded, as what they
 * are for, not as rules: a flow passes for as long as it might begin, its
 * answers with it; an ICMP error passes with the flow it is of.
 */
import type { Address, Prefix } from '../../../agent/core/net.ts';
import { DENIAL_PREFIX, type DenialReason } from '../../../agent/core/reasons.ts';
import { covers } from '../../../agent/core/trigger-plan.ts';
import type { RealmName } from '../../../agent/core/words.ts';
import { type Filter, type FilteredPacket, judgePacket, type PacketEnd } from '../../../agent/policy/filters.ts';
import { isInGroup } from '../../../agent/policy/groups.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { begins, type Flow, type State, type Tracked } from './flows.ts';
import { DEVICES, isOwn, type Place, placeOf } from './neighbourhood.ts';
import { type Packet, read } from './packet.ts';
import { inOneOf } from './stack.ts';

export const ECHO: Readonly<Record<string, number>> = { ipv4: 8, ipv6: 128 };

export interface Said {
  readonly verdict: 'pass' | 'drop';
  readonly outcome: string;
  readonly why: string;
  readonly copies: readonly string[];
  readonly mark?: boolean;
}

export class BaseModel {
  readonly #denied: readonly Prefix[];
  #policy: Policy;
  /** What filters have met since this was asked last; `undefined` where this model does not say how often. */
  #met = new Map<string, number | undefined>();

  constructor({ denied, policy }: { denied: readonly Prefix[]; policy: Policy }) {
    this.#denied = denied;
    this.#policy = policy;
  }

  set policy(policy: Policy) {
    this.#policy = policy;
  }

  met(): ReadonlyMap<string, number | undefined> {
    const met = this.#met;
    this.#met = new Map();
    return met;
  }

  inward(packet: Packet, to: Place, { state, way, flow }: Tracked): Said {
    const view = this.view(packet, 'outside', to);
    if (packet.isSteered) return closed('options for the routers on the way', []);
    if (packet.fragment) return closed('a fragment that no whole is made of', []);
    if (this.#isTriggerPort(packet, 'destination'))
      return {
        verdict: 'drop',
        outcome: 'drop unauthorisedTrigger',
        why: 'to a trigger port',
        copies: [`${DENIAL_PREFIX}unauthorisedTrigger`],
      };
    const drop = this.#drops(view);
    if (drop.said) return drop.said;
    if (state === 'related' && isPassedOn(packet, 'inward'))
      return { verdict: 'pass', outcome: 'pass base', why: 'an error of a flow', copies: drop.copies };
    const allow = this.#allow(view, begins(packet, state, way), state, drop.copies);
    if (allow.said) return allow.said;
    if (state === 'established' && way === 'reply' && flow?.begunBy === 'device') {
      const may = this.#mayBegin(flow);
      if (may)
        return {
          verdict: 'pass',
          outcome: 'pass base',
          why: `answers a flow that may begin: ${may}`,
          copies: allow.copies,
        };
      return closed('answers a flow that may not begin any more', allow.copies);
    }
    return closed('what the outside begins is closed', allow.copies);
  }

  outward(packet: Packet, from: Place, to: Place, { state, way, flow }: Tracked): Said {
    const view = this.view(packet, from, to);
    if (packet.isSteered) return closed('options for the routers on the way', []);
    if (packet.fragment) return closed('a fragment that no whole is made of', []);
    if (this.#isTriggerPort(packet, 'source')) return closed('from a trigger port', []);
    const { said, copies } = this.#drops(view);
    if (said) return said;
    if (to !== 'outside') return closed('devices are kept apart', copies);
    if (state === 'invalid') return closed('no flow knows it', copies);
    if (placeOf(packet.source) !== from) return closed('no address of the realm', copies);
    if (isOwn(packet.source)) return closed("the gateway's own address", copies);
    if (flow?.begunBy === 'outside' && way === 'reply') {
      const may = this.#mayBegin(flow);
      if (may)
        return {
          verdict: 'pass',
          outcome: 'pass base',
          why: `answers a flow that may begin: ${may}`,
          copies,
          mark: true,
        };
    }
    const allow = this.#allow(view, begins(packet, state, way), state, copies);
    if (allow.said) return allow.said;
    if (inOneOf(this.#denied, packet.destination)) return closed('a denied destination', allow.copies);
    const pass = (why: string): Said => ({ verdict: 'pass', outcome: 'pass base', why, copies: allow.copies });
    if (way === 'reply') return closed('answers a flow that may not begin any more', allow.copies);
    if (state === 'related' && isPassedOn(packet, 'outward')) return pass('an error of a flow');
    if (!begins(packet, state, way)) return closed('no flow begins so', allow.copies);
    return isOpen(packet.protocol, packet.icmp?.type, packet.family)
      ? pass('a device may begin it')
      : closed('devices begin TCP, UDP and pings', allow.copies);
  }

  /** As operators are told of a packet that the gate denied. */
  named(reason: DenialReason, bytes: Uint8Array): string {
    const isToward = reason === 'realmDestination' || reason === 'deviceToDevice';
    return isToward && this.#isTriggerPort(read(bytes), 'destination') ? 'unauthorisedTrigger' : reason;
  }

  #isTriggerPort({ protocol, ports }: Packet, end: 'source' | 'destination'): boolean {
    return (protocol === 6 || protocol === 17) && ports !== undefined && covers(this.#policy.triggerPorts, ports[end]);
  }

  /** The drop that meets it, or the copies of those that would. */
  #drops(view: FilteredPacket): { said?: Said; copies: readonly string[] } {
    const drops = this.#policy.filters.filter(({ action }) => action === 'drop');
    const met = drops.find((one) => !one.staged && this.#meets(one, view));
    if (met) {
      this.#count(met, 1);
      const why = `drop ${met.id} meets it`;
      return {
        said: { verdict: 'drop', outcome: `drop ${met.id}`, why, copies: [`${DENIAL_PREFIX}filtered ${met.id}`] },
        copies: [],
      };
    }
    const would = drops.filter((one) => one.staged && this.#meets(one, view));
    for (const one of would) this.#count(one, 1);
    return { copies: would.map(({ id }) => `${DENIAL_PREFIX}staged ${id}`) };
  }

  #allow(
    view: FilteredPacket,
    isBeginning: boolean,
    state: State,
    copies: readonly string[],
  ): { said?: Said; copies: readonly string[] } {
    const allows = this.#policy.filters.filter(({ action }) => action === 'allow');
    const met = allows.filter((one) => !one.staged && this.#meets(one, view));
    if (met[0] && isBeginning) {
      this.#count(met[0], 1);
      return { said: { verdict: 'pass', outcome: `allow ${met[0].id}`, why: `allow ${met[0].id}`, copies }, copies };
    }
    // One rule for each pair of ends: how many of them speak of it is not said here.
    for (const one of allows.filter(({ staged }) => !staged)) this.#count(one, undefined);
    const would = state === 'new' ? allows.filter((one) => one.staged && this.#meets(one, view)) : [];
    for (const one of would) this.#count(one, 1);
    return { copies: [...copies, ...would.map(({ id }) => `${DENIAL_PREFIX}staged ${id}`)] };
  }

  #count({ id }: Filter, times: number | undefined): void {
    const before = this.#met.has(id) ? this.#met.get(id) : 0;
    this.#met.set(id, before === undefined || times === undefined ? undefined : before + times);
  }

  #meets(filter: Filter, view: FilteredPacket): boolean {
    return (
      judgePacket([{ ...filter, staged: false }], view, { isInGroup: (group, end) => this.isInGroup(group, end) })
        .verdict !== 'none'
    );
  }

  isInGroup(name: string, { address: host, realm }: PacketEnd): boolean {
    const group = this.#policy.deviceGroups.get(name);
    const device = DEVICES.find(
      ({ place, ipv4, ipv6 }) => place === (realm as unknown) && [ipv4, ipv6].some((one) => one === host?.text),
    );
    if (!group || device?.name === undefined) return false;
    return isInGroup(group, { externalId: device.name as never, attributes: device.attributes });
  }

  /** Why a flow might begin at this moment; undefined: it might not. */
  #mayBegin({ begunBy, protocol, type, from, to, place }: Flow): string | undefined {
    const { family } = from.address;
    const device: PacketEnd = {
      side: 'inside',
      address: (begunBy === 'device' ? from : to).address,
      realm: place as unknown as RealmName,
    };
    const remote: PacketEnd = { side: 'outside', address: (begunBy === 'device' ? to : from).address };
    const view: FilteredPacket = {
      family,
      from: begunBy === 'device' ? device : remote,
      to: begunBy === 'device' ? remote : device,
      protocol: nameOf(protocol, family),
      ...((protocol === 6 || protocol === 17) && { port: to.port }),
      ...(type !== undefined && { type }),
    };
    const allow = this.#policy.filters.find((one) => one.action === 'allow' && !one.staged && this.#meets(one, view));
    if (allow) return `allow ${allow.id}`;
    if (begunBy === 'outside' || inOneOf(this.#denied, to.address)) return undefined;
    return isOpen(protocol, type, family) ? 'base' : undefined;
  }

  view(packet: Packet, from: Place, to: Place): FilteredPacket {
    const { family, protocol, ports, icmp } = packet;
    const end = (place: Place, host: Address): PacketEnd =>
      place === 'outside'
        ? { side: 'outside', address: host }
        : { side: 'inside', address: host, realm: place as unknown as RealmName };
    return {
      family,
      from: end(from, packet.source),
      to: end(to, packet.destination),
      protocol: nameOf(protocol, family),
      ...(ports && { port: ports.destination }),
      ...(icmp && { type: icmp.type }),
    };
  }
}

function closed(why: string, copies: readonly string[]): Said {
  return { verdict: 'drop', outcome: 'drop base', why, copies };
}

/** The errors that hosts go by: unreachable, too big, wrong header; inward also that hops were used up. */
function isPassedOn({ family, icmp }: Packet, way: 'inward' | 'outward'): boolean {
  const [passedOn, usedUp] = family === 'ipv4' ? [[3, 12], 11] : [[1, 2, 4], 3];
  return icmp !== undefined && (passedOn.includes(icmp.type) || (way === 'inward' && icmp.type === usedUp));
}

/** What devices begin without a filter. */
function isOpen(protocol: number, type: number | undefined, family: string): boolean {
  return protocol === 6 || protocol === 17 || (type !== undefined && type === ECHO[family]);
}

function nameOf(protocol: number, family: string): FilteredPacket['protocol'] {
  if (protocol === 6) return 'tcp';
  if (protocol === 17) return 'udp';
  if (protocol === 1 && family === 'ipv4') return 'icmp';
  return protocol === 58 && family === 'ipv6' ? 'icmpv6' : protocol;
}
