/**
 * One case, lived through by gateway and model side by side: each packet is
 * judged by the model, sent, and seen to its end; then both must have said
 * the same, of the packet, of what was logged and of what was counted. Also
 * held against the kernel: the walk that operators are shown (packet-walk.ts).
 */
import { setImmediate as turn } from 'node:timers/promises';
import { address, contains, hostPrefix, prefix } from '../../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries } from '../../../agent/core/pool.ts';
import type { ExternalId, ServerName } from '../../../agent/core/words.ts';
import type { Mapping } from '../../../agent/dataplane/dataplane.ts';
import { walkSite } from '../../../agent/files.ts';
import {
  BEGINNING_TYPES,
  dropOfGrant,
  judgePacket,
  type WalkEnd,
  type WalkedPacket,
} from '../../../agent/policy/filters.ts';
import { outcomeText, walkPacket } from '../../../agent/policy/packet-walk.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { admissions } from '../../../agent/site.ts';
import { filler, type IpFields, icmp, ip, raw, TCP_ACK, tcp, type Upper, udp } from '../../frames.ts';
import { policyOf } from '../../rules.ts';
import {
  type Action,
  type Case,
  type GrantText,
  ODD_DESTINATIONS,
  ODD_SOURCES,
  policyText,
  REMOTES,
  SERVERS,
  type Shape,
  SOURCES,
  TYPES,
  type Word,
} from './cases.ts';
import { DEVICES, type Gateway, isOwn, type Place, REALMS, type Seen } from './gateway.ts';
import { type Expected, type Flow, Model, wholeOf } from './model.ts';
import { type Packet, read } from './packet.ts';

/** How long what must come may take. It is there at once, unless the machine is held up. */
const PATIENCE_MS = 2000;
/** The same where a difference was seen already, and is looked for again. */
export const SHORT_PATIENCE_MS = 100;
const HOUR_NS = 3_600_000_000_000n;
const LAG_NS = 100_000_000n;
const PIECE = 24;
const FAR = 0x4000_0000;

/** What came of all packets: how many reached the kernel, and how often each outcome was seen. */
export interface Summary {
  packets: number;
  walked: number;
  readonly outcomes: Map<string, number>;
}
export const nothingYet = (): Summary => ({ packets: 0, walked: 0, outcomes: new Map() });

interface Grant {
  readonly mapping: Mapping;
  readonly server: ServerName;
  readonly text: GrantText;
}

/** Gateway and model do not agree. */
export class Difference extends Error {
  /** Which action of the case it was. */
  readonly at: number;

  constructor(at: number, message: string, options: { readonly cause: unknown }) {
    super(message, options);
    this.at = at;
  }
}

let serial = 0;

/** @throws Difference that tells all of a packet of which the two say different things */
export async function live(gateway: Gateway, one: Case, summary: Summary, patienceMs = PATIENCE_MS): Promise<void> {
  const trial = await Trial.begin(gateway, one, summary, patienceMs);
  let at = 0;
  try {
    for (const [i, action] of one.actions.entries()) {
      at = i;
      await trial.do(action);
    }
    await trial.compareCounts();
  } catch (cause) {
    throw new Difference(at, (cause as Error).message, { cause });
  } finally {
    trial.end();
  }
}

class Trial {
  readonly #gateway: Gateway;
  readonly #policies: readonly Policy[];
  readonly #texts: readonly string[];
  readonly #model: Model;
  readonly #summary: Summary;
  readonly #patienceMs: number;
  readonly #grants: Grant[] = [];
  #policy: Policy;
  #counted = new Map<string, number>();
  #silent = 0;

  private constructor(gateway: Gateway, { policies }: Case, summary: Summary, patienceMs: number) {
    this.#patienceMs = patienceMs;
    this.#gateway = gateway;
    this.#texts = policies.map(policyText);
    this.#policies = this.#texts.map((text) => policyOf(text));
    this.#policy = this.#policies[0] as Policy;
    this.#summary = summary;
    const { config, setup } = gateway;
    const { egress } = config.pools;
    this.#model = new Model(setup, { egress, denied: config.base.deniedDestinations, policy: this.#policy });
  }

  static async begin(gateway: Gateway, one: Case, summary: Summary, patienceMs: number): Promise<Trial> {
    const trial = new Trial(gateway, one, summary, patienceMs);
    const { memory } = trial.#model;
    await gateway.forgetFlows();
    for (const plane of [gateway.gate, memory]) {
      for (const [name, sources] of Object.entries(SOURCES))
        for (const source of sources) plane.addClass(prefix(source), SERVERS[name as keyof typeof SERVERS]);
      plane.heartbeat(process.hrtime.bigint());
    }
    memory.sample(1_000_000_000);
    await trial.#enforce(trial.#policy);
    for (const grant of one.grants) trial.#open(grant);
    return trial;
  }

  /** Nothing of this case is left in the gate. */
  end(): void {
    for (const { mapping } of this.#grants) this.#gateway.gate.forget(mapping);
    this.#gateway.look();
  }

  async do(action: Action): Promise<void> {
    if (action.do === 'switch') {
      await this.compareCounts();
      await this.#enforce(this.#policies[action.policy % this.#policies.length] as Policy);
      return;
    }
    if (action.do === 'endGrant') {
      const grant = this.#grants[action.grant % Math.max(1, this.#grants.length)];
      if (grant) this.#endGrant(grant);
      return;
    }
    serial += 1;
    const made = this.#make(action);
    if (!made) return;
    for (const bytes of made.packets) await this.#send(action, made.from, bytes);
  }

  /** What filters and base have counted since the last time is what the model says. */
  async compareCounts(): Promise<void> {
    const { counted, silent } = await this.#counts();
    const met = this.#model.met();
    for (const { id } of this.#policy.filters) {
      const said = met.has(id) ? met.get(id) : 0;
      const found = (counted.get(id) ?? 0) - (this.#counted.get(id) ?? 0);
      if (said !== undefined && said !== found)
        throw new Error(`filter ${id} has counted ${found}, and the model ${said}\n${this.#scene()}`);
    }
    const [said, found] = [this.#model.silent(), silent - this.#silent];
    if (said !== found)
      throw new Error(`the base has dropped ${found} by itself, and the model ${said}\n${this.#scene()}`);
    const strays = this.#gateway.look();
    if (strays.gate.length + strays.log.length + strays.arrived.length > 0)
      throw new Error(`something came late, or of itself: ${shown(strays)}\n${this.#scene()}`);
    this.#counted = counted;
    this.#silent = silent;
  }

  async #counts() {
    return { counted: await this.#gateway.filterPackets(), silent: await this.#gateway.silentlyDropped() };
  }

  /** As the daemon does it: base, then admissions, then the grants that a drop meets now. */
  async #enforce(policy: Policy): Promise<void> {
    await this.#gateway.switchPolicy(policy);
    this.#model.memory.admissions(admissions(this.#gateway.config, policy));
    this.#model.policy = policy;
    this.#policy = policy;
    for (const grant of this.#grants) if (this.#dropOf(grant)) this.#endGrant(grant);
    const { counted, silent } = await this.#counts();
    this.#counted = counted;
    this.#silent = silent;
  }

  #dropOf({ mapping: { protocol, device, remote, remotePort }, server, text }: Grant) {
    const { family } = text;
    const remotes =
      remote === 'all' ? SOURCES[server as unknown as keyof typeof SOURCES].map(prefix) : [hostPrefix(remote)];
    const realm = DEVICES[text.device]?.place as never;
    const flow = {
      family,
      protocol,
      device: { realm, address: device.address },
      devicePort: device.port,
      remotes,
      remotePort: remotePort || undefined,
    };
    return dropOfGrant(this.#policy.filters, flow, { isInGroup: (name, end) => this.#model.isInGroup(name, end) });
  }

  /** Where no filter meets what it would carry, as the daemon judges. */
  #open(text: GrantText): void {
    const { pool } = this.#gateway.setup;
    const { family, protocol, slot, server, remote, remotePort } = text;
    const device = DEVICES[text.device];
    if (!device) return;
    const external =
      family === 'ipv4'
        ? { address: address(`203.0.113.${slot & 3}`), port: 40_000 + slot }
        : { address: address(`2001:db8:a::${slot + 1}`), port: 40_000 + slot };
    const v4 = indexOfIpv4(pool, protocol, external);
    const host = remote === 'all' ? 'all' : address(REMOTES[family][server === 'other' ? 2 : 0]);
    const mapping: Mapping = {
      index: v4 ?? ipv4Entries(pool) + slot * 2 + (protocol === 'udp' ? 1 : 0),
      number: serial,
      protocol,
      realm: device.place === 'one' ? 1 : 2,
      device: { address: address(device[family]), port: text.devicePort },
      external,
      remote: host,
      remotePort,
      classId: SERVERS[server],
      limits: {},
    };
    const grant = { mapping, server: server as unknown as ServerName, text };
    // One entry an endpoint, and one grant for a device's port and a server.
    const isTaken = this.#grants.some(
      ({ mapping: other }) =>
        other.index === mapping.index ||
        (other.protocol === protocol &&
          other.classId === mapping.classId &&
          other.device.port === mapping.device.port &&
          other.device.address.text === mapping.device.address.text),
    );
    if (isTaken || this.#dropOf(grant)) return;
    for (const plane of this.#planes()) plane.open(mapping, process.hrtime.bigint() + HOUR_NS);
    this.#grants.push(grant);
  }

  #endGrant({ mapping: { index, number } }: Grant): void {
    const endNs = process.hrtime.bigint() - LAG_NS;
    for (const plane of this.#planes()) plane.end(index, number, endNs);
  }

  #isAlive({ mapping: { index } }: Grant): boolean {
    return (this.#model.memory.entry(index)?.endNs ?? 0n) > process.hrtime.bigint();
  }

  #planes() {
    return [this.#gateway.gate, this.#model.memory];
  }

  async #send(action: Action, from: Place, bytes: Uint8Array): Promise<void> {
    const packet = read(bytes);
    const flowsBefore = this.#model.flows.length;
    const isFirst = packet.quoteAt === undefined && !this.#model.flowOf(packet);
    const walk = isFirst ? this.#walk(from, packet) : undefined;
    const expected = this.#model.judge(from, bytes);
    this.#gateway.send(from, bytes);
    const { seen, wrong } = await this.#settle(expected);
    const fail = (what: string): never => {
      throw new Error(
        `${what}\n\npacket   ${describe(from, packet)}\n         ${Buffer.from(bytes).toString('hex')}\naction   ${JSON.stringify(action)}\nmodel    ${expected.outcome} (${expected.why})\n         ${[...expected.gate, ...expected.log, expected.arrives ? `arrives ${expected.arrives.at}` : 'is not seen again'].join(', ')}\nkernel   ${shown(seen)}\n\n${this.#scene()}`,
      );
    };
    if (wrong) fail(wrong);
    if (expected.carried) {
      const drop = judgePacket(this.#policy.filters, expected.carried, {
        isInGroup: (name, end) => this.#model.isInGroup(name, end),
      });
      if (drop.verdict === 'drop') fail(`a grant carries what drop ${drop.filter.id} meets`);
    }
    if (walk !== undefined && !['held', 'host', 'expired'].includes(expected.outcome)) {
      this.#summary.walked += 1;
      if (walk !== expected.outcome) fail(`explain packet says: ${walk}`);
    }
    const { outcomes } = this.#summary;
    this.#summary.packets += 1;
    const kind = expected.outcome.replace(/ f\d$/, ' filter');
    for (const one of [kind, ...(this.#model.flows.length > flowsBefore ? ['a flow begins'] : [])])
      outcomes.set(one, (outcomes.get(one) ?? 0) + 1);
  }

  /** Looks until what was seen is what is expected, or something else, or patience ends. */
  async #settle(expected: Expected): Promise<{ seen: Seen; wrong: string | undefined }> {
    let seen = this.#gateway.look();
    for (const end = performance.now() + this.#patienceMs; ; ) {
      const wrong = difference(expected, seen);
      if (!wrong || performance.now() > end) return { seen, wrong };
      await turn();
      const more = this.#gateway.look();
      seen = {
        gate: [...seen.gate, ...more.gate],
        log: [...seen.log, ...more.log],
        arrived: [...seen.arrived, ...more.arrived],
        said: [...seen.said, ...more.said],
      };
    }
  }

  /** What operators are told of such a packet; undefined where the walk does not speak of it. */
  #walk(from: Place, packet: Packet): string | undefined {
    const { family, source, destination, protocol, ports, icmp: message, tcp: segment, fragment, hops, bytes } = packet;
    const isPlain = !fragment && !packet.hasRoutingZero && hops > 1 && packet.upperAt === (family === 'ipv4' ? 20 : 40);
    if (!isPlain || (segment && (segment.flags & 0x17) !== 2) || bytes.length === 0) return undefined;
    const name = ({ 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmpv6' } as const)[protocol];
    if (!name) return undefined;
    if (message && !BEGINNING_TYPES[name as 'icmp'].includes(message.type) && from !== 'outside') return undefined;
    const inside = (place: Place, text: string): WalkEnd => {
      const device = DEVICES.find((one) => one.place === place && one[family] === text);
      const facts = device?.name && {
        device: { externalId: device.name as unknown as ExternalId, attributes: device.attributes },
      };
      return { side: 'inside', address: address(text), realm: place as never, ...facts };
    };
    const alive = this.#grants.filter((one) => this.#isAlive(one));
    const here = alive.find(
      ({ mapping: { external, protocol: of } }) =>
        of === name && external.port === ports?.destination && external.address.text === destination.text,
    );
    const holder = here && DEVICES[here.text.device];
    const isInner = REALMS.some((one) => one.family === family && addressIn(one, destination.text));
    const isGrantsPool = [...this.#gateway.setup.pool.ipv4, ...this.#gateway.setup.pool.ipv6].some((one) =>
      addressIn(one, destination.text),
    );
    if (from === 'outside' && !here && (isGrantsPool || !isInner)) return undefined;
    // It knows no addresses of the host, and of an inner address not where it came in.
    if (isOwn(destination) || isOwn(source)) return undefined;
    if (from !== 'outside' && REALMS.some((one) => contains(one, source)) && placeOf(source.text) !== from)
      return undefined;
    const walked: WalkedPacket = {
      from: from === 'outside' ? { side: 'outside', address: source } : inside(from, source.text),
      to: holder
        ? {
            side: 'inside',
            device: { externalId: holder.name as unknown as ExternalId, attributes: holder.attributes },
          }
        : isInner
          ? inside(placeOf(destination.text), destination.text)
          : { side: 'outside', address: destination },
      protocol: name,
      ...(ports && { port: here ? here.mapping.device.port : ports.destination, sourcePort: ports.source }),
      ...(message && { type: message.type }),
      given: alive.flatMap(({ mapping: { protocol: of, device, remote, remotePort }, server, text }) => {
        const externalId = DEVICES[text.device]?.name as unknown as ExternalId;
        return remote === 'all' && remotePort === 0 && text.family === family
          ? [{ server, device: externalId, protocol: of, port: device.port }]
          : [];
      }),
    };
    // The walk knows grants by what they are asked for, and not what they were narrowed to.
    const narrowed = alive.some(({ mapping: { remote, remotePort, device, external, protocol: of } }) => {
      const meets =
        from === 'outside'
          ? external.address.text === destination.text && external.port === ports?.destination
          : device.address.text === source.text && device.port === ports?.source;
      return of === name && meets && (remote !== 'all' || remotePort !== 0);
    });
    if (narrowed || this.#isTombstone(from, packet)) return undefined;
    return outcomeText(walkPacket(this.#policy, walked, walkSite(this.#gateway.config)).outcome);
  }

  /** A leftover of a grant that has just ended: the walk takes grants to live, or knows none. */
  #isTombstone(from: Place, { source, ports, protocol }: Packet): boolean {
    return (
      from !== 'outside' &&
      protocol === 17 &&
      this.#grants.some(
        (one) =>
          !this.#isAlive(one) &&
          one.mapping.device.address.text === source.text &&
          one.mapping.device.port === ports?.source,
      )
    );
  }

  #make(action: Exclude<Action, { do: 'switch' | 'endGrant' }>): { from: Place; packets: Uint8Array[] } | undefined {
    switch (action.do) {
      case 'out':
      case 'in':
        return this.#makeFirst(action);
      case 'goOn':
        return this.#makeNext(action);
      case 'error':
        return this.#makeError(action);
      case 'toGrant':
      case 'answerGrant':
        return this.#makeGranted(action);
    }
  }

  #makeFirst(action: Extract<Action, { do: 'out' | 'in' }>) {
    const { family, protocol, sourcePort, port, type, flags, shape, hops } = action;
    const device = DEVICES[action.device % DEVICES.length] as (typeof DEVICES)[number];
    const remote = REMOTES[family][action.remote % REMOTES[family].length] as string;
    const [usualSource, usualDestination] = action.do === 'out' ? [device[family], remote] : [remote, device[family]];
    const pick = (list: readonly string[], i: number, usual: string) =>
      i < 0 ? usual : (list[i % list.length] as string);
    const source = pick(ODD_SOURCES[family], action.oddSource, usualSource);
    const destination = pick(ODD_DESTINATIONS[family], action.oddDestination, usualDestination);
    // The gateway itself would answer a segment, without anything that tells of which.
    if (protocol === 'tcp' && isOwn(address(destination))) return undefined;
    const kind = TYPES[family][type % TYPES[family].length] as number;
    const made = upper(protocol, {
      family,
      sourcePort,
      port,
      flags,
      type: kind,
      id: 700 + sourcePort + port,
      device: action.device,
    });
    const from: Place = action.do === 'out' ? device.place : 'outside';
    // What a first segment does to a connection that is there is not this model's subject.
    const [plain] = shaped(source, destination, made(content('plain')), 'plain', hops);
    if (protocol === 'tcp' && plain && this.#model.flowOf(read(plain))) return undefined;
    return { from, packets: shaped(source, destination, made(content(shape)), shape, hops) };
  }

  #makeNext({ flow: n, way, as, shape, hops }: Extract<Action, { do: 'goOn' }>) {
    const flow = this.#model.flows[n % Math.max(1, this.#model.flows.length)];
    if (!flow) return undefined;
    const { from, to, external, place, protocol } = flow;
    const near = external ?? from;
    const [source, destination] = way === 'original' ? [from, to] : [to, near];
    const stranger = REMOTES[source.address.family][2];
    const isOutside = (way === 'original') === (flow.begunBy === 'outside');
    if (as === 'stranger' && !isOutside) return undefined;
    if (isOwn(destination.address)) return undefined;
    const id = content(shape);
    const made = nextOf(flow, way, as === 'far', id, near.port, { source: source.port, destination: destination.port });
    if (!made || (protocol === 6 && as === 'stranger')) return undefined;
    return {
      from: isOutside ? ('outside' as const) : place,
      packets: shaped(as === 'stranger' ? stranger : source.address.text, destination.address.text, made, shape, hops),
    };
  }

  #makeError({ flow: n, by, type, as }: Extract<Action, { do: 'error' }>) {
    const flow = this.#model.flows[n % Math.max(1, this.#model.flows.length)];
    if (!flow) return undefined;
    const { from, to, external, begunBy, place } = flow;
    const near = external ?? from;
    const isAboutAnswer = (by === 'device') === (begunBy === 'device');
    const [sender, receiver] = isAboutAnswer ? [to, begunBy === 'device' ? from : near] : [near, to];
    const way = isAboutAnswer ? 'reply' : 'original';
    const ends = { source: sender.port, destination: as === 'stranger' ? receiver.port ^ 1 : receiver.port };
    const id = (begunBy === 'device' && by === 'outside' ? near : from).port;
    const made = quotedOf(flow, way, id, ends);
    if (!made) return undefined;
    const { family } = sender.address;
    const quote = ip(sender.address.text, receiver.address.text, made);
    const kinds =
      family === 'ipv4'
        ? ([
            [3, 3],
            [11, 0],
            [3, 1],
            [12, 0],
          ] as const)
        : ([
            [1, 4],
            [3, 0],
            [2, 0],
            [4, 0],
          ] as const);
    const [kind, code] = kinds[type % kinds.length] as readonly [number, number];
    const router = family === 'ipv4' ? '198.51.102.1' : '2001:db8:5a::1';
    const source = as === 'router' && by === 'outside' ? router : receiver.address.text;
    const message = icmp(family === 'ipv4' ? 'icmp' : 'icmpv6', kind, code, quote, serial);
    return {
      from: by === 'outside' ? ('outside' as const) : place,
      packets: [ip(source, sender.address.text, message)],
    };
  }

  #makeGranted(action: Extract<Action, { do: 'toGrant' | 'answerGrant' }>) {
    const grant = this.#grants[action.grant % Math.max(1, this.#grants.length)];
    if (!grant) return undefined;
    const { protocol, device, external, remote } = grant.mapping;
    const { family } = grant.text;
    const index = action.do === 'toGrant' ? action.from : action.to;
    const usual = remote === 'all' ? REMOTES[family][grant.mapping.classId === SERVERS.other ? 2 : 0] : remote.text;
    const peer = index < 0 ? usual : (REMOTES[family][index % REMOTES[family].length] as string);
    const data = content(action.shape);
    const { shape, hops } = action;
    if (action.do === 'toGrant') {
      const other = protocol === 'udp' ? 'tcp' : 'udp';
      const port = external.port + action.portOff;
      const made = upper(action.turned ? other : protocol, {
        family,
        sourcePort: action.sourcePort,
        port,
        flags: action.flags,
        type: 0,
        id: 0,
        device: 0,
      });
      return { from: 'outside' as const, packets: shaped(peer, external.address.text, made(data), shape, hops) };
    }
    const made = upper(protocol, {
      family,
      sourcePort: device.port,
      port: action.port,
      flags: TCP_ACK,
      type: 0,
      id: 0,
      device: 0,
    });
    return {
      from: grant.mapping.realm === 1 ? ('one' as const) : ('two' as const),
      packets: shaped(device.address.text, peer, made(data), shape, hops),
    };
  }

  #scene(): string {
    const grants = this.#grants.map((one) => `${JSON.stringify(one.text)}${this.#isAlive(one) ? '' : ' (ended)'}`);
    const flows = this.#model.flows.map(({ from, to, external, ...rest }) =>
      [
        `${from.address.text} ${from.port} to ${to.address.text} ${to.port}`,
        external && `as ${external.address.text} ${external.port}`,
        JSON.stringify(rest),
      ].join(' '),
    );
    return [
      'policy in force:',
      this.#texts[this.#policies.indexOf(this.#policy)],
      'grants:',
      ...grants,
      'flows:',
      ...flows,
    ].join('\n');
  }
}

/** What tells one packet from all others. */
function content(shape: Shape): Uint8Array {
  const word = Uint8Array.of(0xa5, serial >> 16, serial >> 8, serial);
  return Uint8Array.from({ length: shape === 'plain' ? 12 : 48 }, (_, i) => word[i % 4] ?? 0);
}

interface Fields {
  readonly family: 'ipv4' | 'ipv6';
  readonly sourcePort: number;
  readonly port: number;
  readonly flags: number;
  readonly type: number;
  readonly id: number;
  readonly device: number;
}

function upper(word: Word, { family, sourcePort, port, flags, type, id, device }: Fields): (data: Uint8Array) => Upper {
  switch (word) {
    case 'udp':
      return (data) => udp(sourcePort, port, data);
    case 'tcp':
      return (data) => tcp(sourcePort, port, data, flags, { sequence: 1_000_000 });
    case 'icmp':
      return (data) => icmp(family === 'ipv4' ? 'icmp' : 'icmpv6', type, 0, data, (id << 16) | 1);
    case 'esp':
      // Two devices that are hidden by one address cannot both be known by it where there are no ports.
      return (data) => raw(200 + device, data);
  }
}

/** The next packet of a flow in one direction; undefined where there is none that is in its order. */
function nextOf(
  flow: Flow,
  way: 'original' | 'reply',
  far: boolean,
  data: Uint8Array,
  nearId: number,
  ports: { source: number; destination: number },
): Upper | undefined {
  const { protocol, tcp: state } = flow;
  if (protocol !== 6)
    return far ? undefined : quotedOf(flow, way, way === 'original' ? flow.from.port : nearId, ports, data);
  if (!state) return undefined;
  const { next } = state;
  const other = way === 'original' ? next.reply : next.original;
  const isSyn = state.state === 'begun';
  if (isSyn && way === 'original')
    return far ? undefined : tcp(ports.source, ports.destination, filler(0), 2, { sequence: next.original - 1 });
  if (isSyn)
    return far
      ? undefined
      : tcp(ports.source, ports.destination, '', 18, { sequence: 5_000_000, acknowledges: next.original });
  if (state.state === 'answered' && (way === 'reply' || far)) return undefined;
  return tcp(ports.source, ports.destination, data, TCP_ACK, {
    sequence: next[way] + (far ? FAR : 0),
    acknowledges: other,
  });
}

/** A packet of a flow as it may be quoted. */
function quotedOf(
  { protocol, type, from }: Flow,
  way: 'original' | 'reply',
  id: number,
  ports: { source: number; destination: number },
  data: Uint8Array = content('plain'),
): Upper | undefined {
  const { family } = from.address;
  if (protocol === 17) return udp(ports.source, ports.destination, data);
  if (protocol === 6) return tcp(ports.source, ports.destination, data, TCP_ACK);
  if (type === undefined) return raw(protocol, data);
  const answers: Readonly<Record<number, number>> = { 8: 0, 13: 14, 15: 16, 17: 18, 128: 129 };
  const kind = way === 'original' ? type : answers[type];
  return kind === undefined ? undefined : icmp(family === 'ipv4' ? 'icmp' : 'icmpv6', kind, 0, data, (id << 16) | 1);
}

/** The packet, or its pieces, or one of them. */
function shaped(from: string, to: string, made: Upper, shape: Shape, hops: number): Uint8Array[] {
  const six = from.includes(':');
  const whole = (fields: IpFields) => [ip(from, to, made, { hops, ...fields })];
  if (shape === 'plain') return whole({});
  if (shape === 'options') return whole(six ? { extensions: [60] } : { options: new Uint8Array(4) });
  const bytes = made.bytes(address(from), address(to));
  if (shape === 'routingZero') {
    if (!six) return whole({});
    const header = Uint8Array.of(made.protocol, 2, 0, 0, 0, 0, 0, 0, ...address(to).bytes);
    return [ip(from, to, raw(43, Uint8Array.of(...header, ...bytes)), { hops })];
  }
  // A first piece of an odd length (RFC 8200, 4.5: discarded) stands for itself in IPv6; in IPv4 it would be cut.
  if (bytes.length <= PIECE && !(six && shape === 'firstPiece')) return whole({});
  const id = serial & 0xffff;
  const piece = (part: Uint8Array, offset: number, more: boolean) =>
    ip(from, to, raw(made.protocol, part), { hops, id, fragment: { offset, more } });
  const first = piece(bytes.subarray(0, PIECE), 0, true);
  const later = piece(bytes.subarray(PIECE), PIECE, false);
  return { firstPiece: [first], laterPiece: [later], pieces: [first, later], piecesTurned: [later, first] }[shape];
}

function difference(expected: Expected, seen: Seen): string | undefined {
  const same = (a: readonly string[], b: readonly string[]) =>
    a.length === b.length && a.every((one, i) => one === b[i]);
  // What the gateway itself says may be stopped by the guard of the outside.
  const counted = expected.mayAnswer ? seen.gate.filter((one) => one !== 'innerLeak') : seen.gate;
  if (!same([...expected.gate].sort(), [...counted].sort()))
    return `the gate counts otherwise: ${seen.gate.join(', ') || 'nothing'}`;
  if (!same(expected.log, seen.log)) return `it was seen elsewhere: ${seen.log.join(', ') || 'nowhere'}`;
  if (seen.said.length > 0 && !expected.mayAnswer) return 'the gateway said something of its own';
  if (!expected.arrives) return seen.arrived.length > 0 && !expected.mayAnswer ? 'it arrived' : undefined;
  const whole = wholeOf(seen.arrived, expected.arrives.at);
  return typeof whole === 'string' ? whole : expected.arrives.check(whole);
}

function shown({ gate, log, arrived, said }: Seen): string {
  const frames = (word: string, list: Seen['arrived']) =>
    list.map(({ at, bytes }) => `${word} ${at} ${Buffer.from(bytes).toString('hex')}`);
  return [...gate, ...log, ...frames('arrived', arrived), ...frames('said', said)].join(', ') || 'nothing';
}

function describe(
  from: Place,
  { source, destination, protocol, ports, icmp: message, tcp: segment, fragment, hops, hasRoutingZero }: Packet,
): string {
  return [
    `from ${from}: ${source.text} to ${destination.text}, protocol ${protocol}`,
    ports && `ports ${ports.source} to ${ports.destination}`,
    segment && `flags 0x${segment.flags.toString(16)} sequence ${segment.sequence}`,
    message && `type ${message.type} code ${message.code} id ${message.id}`,
    fragment && `fragment at ${fragment.offset}${fragment.more ? ', more to come' : ''}`,
    hasRoutingZero && 'routing header 0',
    hops !== 64 && `hops ${hops}`,
  ]
    .filter(Boolean)
    .join(', ');
}

function placeOf(text: string): Place {
  return text.startsWith('10.30.') || text.startsWith('fd00:30:') ? 'two' : 'one';
}

function addressIn(of: ReturnType<typeof prefix>, text: string): boolean {
  return contains(of, address(text));
}
