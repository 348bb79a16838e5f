/**
 * What the whole gateway must do with a packet, as a model that can be read:
 * the gate by its twin (memory.ts), filters by judgePacket, and between them
 * connection tracking and base as what they are for, not as rules: a flow
 * passes for as long as it might begin, its answers with it; an ICMP error
 * passes with the flow it is of.
 *
 * Flows know no time: a case is over before any of them could end.
 */
import { type Address, contains, type Prefix, prefix } from '../../../agent/core/net.ts';
import { ANSWER_MARK, DENIAL_PREFIX } from '../../../agent/core/reasons.ts';
import type { RealmName } from '../../../agent/core/words.ts';
import type { GateSetup, Hook } from '../../../agent/dataplane/dataplane.ts';
import { Memory } from '../../../agent/dataplane/memory.ts';
import {
  BEGINNING_TYPES,
  type Filter,
  type FilteredPacket,
  judgePacket,
  type PacketEnd,
} from '../../../agent/policy/filters.ts';
import { isInGroup } from '../../../agent/policy/groups.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { ethernet } from '../../frames.ts';
import { type Arrival, DEVICES, ifindexIn, isOwn, type Place } from './gateway.ts';
import { assembled, type Changes, type Packet, read, translated } from './packet.ts';

/** One end of a flow; the port is ICMP's id where it has one, and 0 where there is nothing of the kind. */
interface FlowEnd {
  readonly address: Address;
  readonly port: number;
}

export interface Flow {
  readonly begunBy: 'device' | 'outside';
  readonly protocol: number;
  /** Of ICMP: the type of its requests. */
  readonly type?: number | undefined;
  readonly from: FlowEnd;
  readonly to: FlowEnd;
  /** Where a device is: of `from`, or of `to`. */
  readonly place: Exclude<Place, 'outside'>;
  /** What stands for the device outside, once it was seen. */
  external?: FlowEnd;
  answered: boolean;
  tcp?: { state: 'begun' | 'answered' | 'open'; readonly next: { original: number; reply: number } };
}

export interface Expected {
  /** In words, for who reads a failure. */
  readonly why: string;
  /** As packet tests of rule files name it: `pass grant`, `drop base`, `allow noc`; or what is none of theirs. */
  readonly outcome: string;
  readonly gate: readonly string[];
  readonly log: readonly string[];
  /** Where it arrives; what is wrong with what came, or undefined. */
  readonly arrives?: { readonly at: Place; check(whole: Packet): string | undefined };
  /** The gateway may say something of its own about it. */
  readonly mayAnswer?: boolean;
  /** The packet as filters see it, where a grant carries it. */
  readonly carried?: FilteredPacket;
}

type State = 'new' | 'established' | 'related' | 'invalid' | 'untracked';
interface Tracked {
  readonly state: State;
  readonly way?: 'original' | 'reply';
  readonly flow?: Flow;
}

const ANSWER_TYPES: Readonly<Record<number, number>> = { 8: 0, 13: 14, 15: 16, 17: 18, 128: 129 };
const ECHO: Readonly<Record<string, number>> = { ipv4: 8, ipv6: 128 };
/** Neighbour discovery and multicast listeners, which connection tracking leaves alone. */
const UNTRACKED: readonly number[] = [130, 131, 132, 133, 134, 135, 136, 137, 143];
const [FIN, SYN, RST, ACK, URG] = [1, 2, 4, 16, 32];
/** That far ahead of what is next, a segment is of no window. */
const FAR = 0x1000_0000;

const MARTIAN_SOURCES = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255/32'].map(prefix);
const MARTIAN_DESTINATIONS = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4'].map(prefix);
/** What IPv6 drops before any hook. */
const UNHEARD_SOURCES = ['::1/128', 'ff00::/8'].map(prefix);
const inOneOf = (prefixes: readonly Prefix[], host: Address) => prefixes.some((one) => contains(one, host));

export class Model {
  readonly memory: Memory;
  readonly flows: Flow[] = [];
  readonly #setup: GateSetup;
  readonly #egress: readonly Prefix[];
  readonly #denied: readonly Prefix[];
  #policy: Policy;
  readonly #pieces = new Map<string, Uint8Array[]>();
  /** Each device keeps its one address outside (RFC 4787 REQ-2). */
  readonly #pairs = new Map<string, string>();
  /** What filters have met since this was asked last; `undefined` where this model does not say how often. */
  #met = new Map<string, number | undefined>();
  #silent = 0;

  constructor(
    setup: GateSetup,
    { egress, denied, policy }: { egress: readonly Prefix[]; denied: readonly Prefix[]; policy: Policy },
  ) {
    const now = () => process.hrtime.bigint();
    this.memory = new Memory({ nowMs: Date.now, monotonicNs: now, boottimeNs: now }, setup);
    this.#setup = setup;
    this.#egress = egress;
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

  /** How many packets rules of the base dropped by themselves since this was asked last. */
  silent(): number {
    const silent = this.#silent;
    this.#silent = 0;
    return silent;
  }

  judge(from: Place, bytes: Uint8Array): Expected {
    const hook: Hook = from === 'outside' ? 'outsideIngress' : 'insideIngress';
    const verdict = this.memory.judge(hook, ifindexIn(this.#setup, from), ethernet(bytes));
    if (verdict.verdict === 'drop')
      return {
        why: `the gate: ${verdict.reason}`,
        outcome: `drop ${verdict.reason}`,
        gate: [verdict.reason, 'sampled'],
        log: [`${DENIAL_PREFIX}${verdict.reason}`],
      };
    if (verdict.verdict === 'pass') return this.#toStack(from, read(bytes));
    const carried = read(verdict.bytes.subarray(14));
    const at = from === 'outside' ? this.#placeOf(carried.destination) : 'outside';
    return {
      why: 'the gate carries it',
      outcome: 'pass grant',
      gate: [from === 'outside' ? 'grantedIn' : 'grantedOut'],
      log: [],
      arrives: { at, check: sameAs(verdict.bytes.subarray(14)) },
      carried: this.view(from === 'outside' ? carried : read(bytes), from, at),
    };
  }

  #toStack(from: Place, piece: Packet): Expected {
    const ends = (outcome: string, why: string, log: readonly string[], more: Partial<Expected> = {}): Expected => ({
      why,
      outcome,
      gate: ['passed'],
      log,
      ...more,
    });
    if (piece.family === 'ipv6' && inOneOf(UNHEARD_SOURCES, piece.source))
      return ends('drop base', 'the stack: no such source', []);
    const packet = this.#whole(from, piece);
    if (!packet) return ends('held', 'a fragment that waits for the rest', []);
    const { source, destination } = packet;
    const { ipv4, ipv6 } = this.#setup.pool;
    if ([...ipv4, ...ipv6].some((one) => contains(one, destination))) {
      this.#silent += 1;
      return ends('drop base', 'to the grants pool', ['met']);
    }
    const tracked = this.#track(packet);
    const met = ['met', 'tracked'];
    const { flow, way, state } = tracked;
    if (packet.family === 'ipv4' && (inOneOf(MARTIAN_SOURCES, source) || isOwn(source)))
      return ends('drop base', 'the stack: a martian source', met);
    // What comes back to the endpoint that stands for a device goes to the device.
    const inward = flow?.external && way === 'reply' ? flow : undefined;
    const back: Changes = inward ? this.#backToDevice(inward, state) : {};
    const target = back.destination ?? destination;
    if (packet.family === 'ipv4' && inOneOf(MARTIAN_DESTINATIONS, target))
      return ends('drop base', 'the stack: a martian destination', met);
    if (isOwn(target)) {
      const heard = this.#isHeard(from, packet);
      if (!heard) this.#silent += 1;
      return ends('host', 'to the gateway', [...met, 'input', ...(heard ? ['heard'] : [])], { mayAnswer: heard });
    }
    if (this.#egress.some((one) => contains(one, target)))
      return ends('drop base', 'a blackhole: no flow of the egress pool', met);
    const to = this.#placeOf(target);
    if (packet.hops <= 1) return ends('expired', 'no hop is left', met, { mayAnswer: true });
    const forwarded = [...met, 'forward'];
    const seen = inward ? read(translated(packet, back)) : packet;
    const said = from === 'outside' ? this.#inward(seen, to, tracked) : this.#outward(seen, from, to, tracked);
    const log = [...forwarded, ...said.copies];
    if (said.verdict === 'drop') {
      if (said.outcome === 'drop base') this.#silent += 1;
      return ends(said.outcome, said.why, log);
    }
    return this.#leaves(from, to, packet, tracked, { ...said, log: [...log, 'leaves'], back });
  }

  /** It is let through: translated, confirmed as a flow, and looked at by the guard of the outside. */
  #leaves(
    from: Place,
    to: Place,
    packet: Packet,
    { flow, state }: Tracked,
    said: { outcome: string; why: string; log: readonly string[]; mark?: boolean; back: Changes },
  ): Expected {
    const { outcome, why, log, back } = said;
    const base = { why, outcome, gate: ['passed'], log };
    if (from === 'outside') {
      if (!flow) this.flows.push(begun('outside', packet, to));
      return { ...base, arrives: { at: to, check: sameAs(translated(packet, { ...back, hopsLess: 1 })) } };
    }
    if (!flow) {
      const fresh = begun('device', packet, from);
      this.flows.push(fresh);
      return { ...base, arrives: { at: to, check: (whole) => this.#checkHidden(packet, fresh, whole) } };
    }
    const bytes = translated(packet, { ...this.#outOf(flow, state), hopsLess: 1 });
    const guard = this.memory.judge(
      'outsideEgress',
      ifindexIn(this.#setup, 'outside'),
      ethernet(bytes),
      said.mark ? ANSWER_MARK : 0,
    );
    if (guard.verdict === 'drop')
      return {
        ...base,
        why: `${why}; the guard: ${guard.reason}`,
        outcome: `drop ${guard.reason}`,
        gate: ['passed', guard.reason],
      };
    return { ...base, arrives: { at: to, check: sameAs(bytes) } };
  }

  /** The first of a flow tells which endpoint stands for it. */
  #checkHidden(packet: Packet, flow: Flow, whole: Packet): string | undefined {
    const { source } = whole;
    if (!this.#egress.some((one) => contains(one, source))) return `${source.text} is not of the egress pool`;
    const paired = this.#pairs.get(flow.from.address.text) ?? source.text;
    if (paired !== source.text) return `the device was ${paired} outside, and is ${source.text} now`;
    this.#pairs.set(flow.from.address.text, source.text);
    const port = whole.ports?.source ?? whole.icmp?.id ?? 0;
    flow.external = { address: source, port };
    return sameAs(translated(packet, { source, sourcePort: port, hopsLess: 1 }))(whole);
  }

  /** What a packet from inside is changed to: by its flow, and where it is an error, in its quote too. */
  #outOf(flow: Flow, state: State): Changes {
    const { external } = flow;
    if (!external) return {};
    if (state === 'related')
      return { source: external.address, quote: { destination: external.address, destinationPort: external.port } };
    return { source: external.address, sourcePort: external.port };
  }

  #backToDevice({ from }: Flow, state: State): Changes {
    if (state === 'related')
      return { destination: from.address, quote: { source: from.address, sourcePort: from.port } };
    return { destination: from.address, destinationPort: from.port };
  }

  #inward(packet: Packet, to: Place, { state, way, flow }: Tracked): Said {
    const view = this.view(packet, 'outside', to);
    if (packet.hasRoutingZero) return closed('routing header 0', []);
    if (packet.fragment) return closed('a fragment that no whole is made of', []);
    const drop = this.#drops(view);
    if (drop.said) return drop.said;
    if (state === 'related')
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

  #outward(packet: Packet, from: Place, to: Place, { state, way, flow }: Tracked): Said {
    const view = this.view(packet, from, to);
    if (packet.hasRoutingZero) return closed('routing header 0', []);
    if (packet.fragment) return closed('a fragment that no whole is made of', []);
    const { said, copies } = this.#drops(view);
    if (said) return said;
    if (to !== 'outside') return closed('devices are kept apart', copies);
    if (state === 'invalid') return closed('no flow knows it', copies);
    if (!this.#isOfRealm(from, packet.source)) return closed('no address of the realm', copies);
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
    if (state === 'related') return pass('an error of a flow');
    if (!begins(packet, state, way)) return closed('no flow begins so', allow.copies);
    return isOpen(packet.protocol, packet.icmp?.type, packet.family)
      ? pass('a device may begin it')
      : closed('devices begin TCP, UDP and pings', allow.copies);
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

  #track(packet: Packet): Tracked {
    if (packet.quoteAt !== undefined) return this.#trackError(packet, packet.quoteAt);
    const known = this.flowOf(packet);
    const { icmp, tcp } = packet;
    if (tcp) return trackTcp(tcp, packet, known);
    if (known) {
      if (known.way === 'reply') known.flow.answered = true;
      return { ...known, state: known.flow.answered ? 'established' : 'new' };
    }
    if (!icmp) return { state: 'new' };
    const { family } = packet;
    if (BEGINNING_TYPES[family === 'ipv4' ? 'icmp' : 'icmpv6'].includes(icmp.type)) return { state: 'new' };
    return { state: family === 'ipv6' && UNTRACKED.includes(icmp.type) ? 'untracked' : 'invalid' };
  }

  /** An error is of the flow that its quote is of, if it is sent to who sent that (RFC 5508, REQ-3 to 5). */
  #trackError(packet: Packet, quoteAt: number): Tracked {
    const quoted = packet.bytes.subarray(quoteAt);
    const six = packet.family === 'ipv6';
    if (quoted.length < (six ? 48 : 28) || (quoted[0] ?? 0) >> 4 !== (six ? 6 : 4)) return { state: 'invalid' };
    const quote = read(quoted);
    const known = this.flowOf(turned(quote));
    if (!known || quote.source.text !== packet.destination.text) return { state: 'invalid' };
    return { ...known, state: 'related' };
  }

  /** The flow that a packet is of, as it is on the wire, and which way it goes. */
  flowOf(packet: Packet): { flow: Flow; way: 'original' | 'reply' } | undefined {
    const { source, destination, protocol, icmp } = packet;
    const id = icmp?.id ?? 0;
    const { source: sourcePort, destination: destinationPort } = packet.ports ?? { source: id, destination: id };
    for (const flow of this.flows) {
      const { from, to, type } = flow;
      const near = flow.external ?? from;
      if (flow.protocol !== protocol) continue;
      const goes = (a: FlowEnd, b: FlowEnd) =>
        a.address.text === source.text &&
        b.address.text === destination.text &&
        a.port === sourcePort &&
        b.port === destinationPort;
      if (type === icmp?.type && goes(from, to)) return { flow, way: 'original' };
      const answerType = type === undefined ? undefined : ANSWER_TYPES[type];
      const far = icmp ? { ...to, port: near.port } : to; // an answer bears the id of what it answers
      if (answerType === icmp?.type && goes(far, near)) return { flow, way: 'reply' };
    }
    return undefined;
  }

  #isHeard(from: Place, packet: Packet): boolean {
    if (from === 'outside') return true;
    const { protocol, ports, icmp, family } = packet;
    if (protocol === 17) return ports?.destination === 53;
    return icmp?.type === ECHO[family];
  }

  #isOfRealm(place: Place, host: Address): boolean {
    return this.#setup.inside[place === 'one' ? 0 : 1]?.prefixes.some((one) => contains(one, host)) ?? false;
  }

  #placeOf(host: Address): Place {
    return (['one', 'two'] as const).find((place) => this.#isOfRealm(place, host)) ?? 'outside';
  }

  /** The packet itself, or the one that this was the last missing piece of. */
  #whole(from: Place, piece: Packet): Packet | undefined {
    if (!piece.fragment || isBroken(piece)) return piece;
    const key = `${from} ${piece.source.text} ${piece.destination.text} ${piece.fragment.id}`;
    const pieces = [...(this.#pieces.get(key) ?? []), piece.bytes];
    this.#pieces.set(key, pieces);
    const bytes = assembled(pieces);
    if (bytes) this.#pieces.delete(key);
    return bytes && read(bytes);
  }
}

/** A packet as its answer would be: an error goes the way of answers to what it quotes. */
function turned(packet: Packet): Packet {
  const { source, destination, ports, icmp } = packet;
  const types = Object.entries(ANSWER_TYPES).flatMap(([request, answer]) => [
    [Number(request), answer] as const,
    [answer, Number(request)] as const,
  ]);
  const type = types.find(([one]) => one === icmp?.type)?.[1];
  return {
    ...packet,
    source: destination,
    destination: source,
    ...(ports && { ports: { source: ports.destination, destination: ports.source } }),
    ...(icmp && { icmp: { ...icmp, type: type ?? -1 } }),
  };
}

/** A piece of IPv6 that is not the last and does not end at eight bytes: it is handed on as it is (RFC 8200, 4.5: discarded). */
function isBroken({ family, fragment, bytes, upperAt }: Packet): boolean {
  return family === 'ipv6' && (fragment?.more ?? false) && (bytes.length - upperAt) % 8 !== 0;
}

interface Said {
  readonly verdict: 'pass' | 'drop';
  readonly outcome: string;
  readonly why: string;
  readonly copies: readonly string[];
  readonly mark?: boolean;
}

function closed(why: string, copies: readonly string[]): Said {
  return { verdict: 'drop', outcome: 'drop base', why, copies };
}

function begun(begunBy: Flow['begunBy'], packet: Packet, place: Place): Flow {
  const { source, destination, protocol, ports, icmp, tcp, bytes, upperAt } = packet;
  const id = icmp?.id ?? 0;
  return {
    begunBy,
    protocol,
    type: icmp?.type,
    from: { address: source, port: ports?.source ?? id },
    to: { address: destination, port: ports?.destination ?? id },
    place: place as Flow['place'],
    answered: false,
    ...(tcp && {
      tcp: { state: 'begun' as const, next: { original: tcp.sequence + 1 + contentLength(bytes, upperAt), reply: 0 } },
    }),
  };
}

function contentLength(bytes: Uint8Array, upperAt: number): number {
  return bytes.length - upperAt - ((bytes[upperAt + 12] ?? 0) >> 4) * 4;
}

function trackTcp(
  tcp: NonNullable<Packet['tcp']>,
  packet: Packet,
  known: { flow: Flow; way: 'original' | 'reply' } | undefined,
): Tracked {
  const flags = tcp.flags & (FIN | SYN | RST | ACK | URG);
  const kind =
    flags & RST
      ? 'rst'
      : flags & SYN
        ? flags & ACK
          ? 'synAck'
          : 'syn'
        : flags & FIN
          ? 'fin'
          : flags & ACK
            ? 'ack'
            : 'none';
  const isOdd =
    (flags & SYN && flags & (FIN | RST)) ||
    (kind === 'fin' && !(flags & ACK)) ||
    kind === 'none' ||
    (kind === 'rst' && flags & FIN);
  if (isOdd) return { state: 'invalid' };
  if (!known) return { state: kind === 'syn' || kind === 'ack' ? 'new' : 'invalid' };
  const { flow, way } = known;
  const state = flow.tcp;
  if (!state) throw new Error('a TCP flow without a state');
  const length = contentLength(packet.bytes, packet.upperAt);
  if (state.state === 'begun' && way === 'original')
    return kind === 'syn' ? { ...known, state: 'new' } : { state: 'invalid' };
  if (state.state === 'begun' && kind === 'synAck') {
    state.state = 'answered';
    state.next.reply = tcp.sequence + 1;
    flow.answered = true;
    return { ...known, state: 'established' };
  }
  if (state.state === 'begun') return { state: 'invalid' };
  if (tcp.sequence >= state.next[way] + FAR) return { state: 'invalid' };
  if (kind !== 'ack' || tcp.sequence !== state.next[way]) throw new Error(`the model knows no such segment (${kind})`);
  if (state.state === 'answered' && way === 'original') state.state = 'open';
  state.next[way] += length;
  return { ...known, state: 'established' };
}

/** Whether a packet is one that its flow might have begun with, or goes on with. */
function begins({ tcp }: Packet, state: State, way: Tracked['way']): boolean {
  if (state === 'established') return way === 'original';
  if (state !== 'new') return false;
  return !tcp || (tcp.flags & (FIN | SYN | RST | ACK)) === SYN;
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

function sameAs(bytes: Uint8Array): (whole: Packet) => string | undefined {
  return (whole) => {
    const [wanted, found] = [bytes, whole.bytes].map((one) => Buffer.from(one).toString('hex'));
    return wanted === found ? undefined : `came as  ${found}\n   not as  ${wanted}`;
  };
}

/** The one that came, put together where it came in pieces. @returns what is wrong with what came instead */
export function wholeOf(arrived: readonly Arrival[], at: Place): Packet | string {
  const elsewhere = arrived.find((one) => one.at !== at);
  if (elsewhere) return `came at ${elsewhere.at}, not at ${at}`;
  const pieces = arrived.map(({ bytes }) => bytes);
  const [first] = pieces;
  if (!first) return `did not come at ${at}`;
  if (!read(first).fragment) return pieces.length === 1 ? read(first) : `came ${pieces.length} times`;
  const whole = assembled(pieces);
  return whole ? read(whole) : `came in pieces that make no whole`;
}
