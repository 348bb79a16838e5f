/**
 * Packets, composed when it is their turn: what an action says, of the flows
 * and grants that there are by then. Each bears a number of its own.
 */
import { address } from '../../../agent/core/net.ts';
import { filler, type IpFields, icmp, ip, raw, TCP_ACK, tcp, type Upper, udp } from '../../frames.ts';
import {
  type Action,
  BEYOND,
  ODD_DESTINATIONS,
  ODD_SOURCES,
  REMOTES,
  SERVERS,
  type Shape,
  TYPES,
  type Word,
} from './cases.ts';
import type { Flow, Flows } from './flows.ts';
import type { Grants } from './grants.ts';
import { DEVICES, isOwn, type Place } from './neighbourhood.ts';
import { read } from './packet.ts';

const PIECE = 24;
const FAR = 0x4000_0000;

let serial = 0;

interface Composed {
  readonly from: Place;
  readonly packets: readonly Uint8Array[];
}

export class Composer {
  readonly #flows: Flows;
  readonly #grants: Grants;

  constructor(flows: Flows, grants: Grants) {
    this.#flows = flows;
    this.#grants = grants;
  }

  /** Undefined where there is nothing of what it speaks of. */
  compose(action: Exclude<Action, { do: 'switch' | 'endGrant' }>): Composed | undefined {
    serial += 1;
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
    if (from === 'outside' && BEYOND.includes(destination)) return undefined;
    // What a first segment does to a connection that is there is not this model's subject.
    const [plain] = shaped(source, destination, made(content('plain')), 'plain', hops);
    if (protocol === 'tcp' && plain && this.#flows.of(read(plain))) return undefined;
    // The same ends the other way round: whose port connection tracking then changes is not this model's subject either.
    const isTurned = this.#flows.all.some(
      (flow) =>
        flow.from.address.text === destination &&
        flow.to.address.text === source &&
        (protocol === 'esp' || (flow.from.port === port && flow.to.port === sourcePort)), // which has no ports
    );
    if (isTurned) return undefined;
    return { from, packets: shaped(source, destination, made(content(shape)), shape, hops) };
  }

  #makeNext({ flow: n, way, as, shape, hops }: Extract<Action, { do: 'goOn' }>) {
    const flow = this.#flows.all[n % Math.max(1, this.#flows.all.length)];
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
    const flow = this.#flows.all[n % Math.max(1, this.#flows.all.length)];
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
    const quote = ip(sender.address.text, receiver.address.text, made, { hops: 30 + (serial % 60) });
    const kinds =
      family === 'ipv4'
        ? ([
            [3, 3],
            [11, 0],
            [3, 1],
            [12, 0],
            [5, 1],
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
    const grant = this.#grants.at(action.grant);
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
    // Of a connection that is there, too, and not begun this way, it would be a segment at an odd moment.
    const [plain] = shaped(device.address.text, peer, made(content('plain')), 'plain', hops);
    if (protocol === 'tcp' && plain && this.#flows.of(read(plain))) return undefined;
    return {
      from: grant.mapping.realm === 1 ? ('one' as const) : ('two' as const),
      packets: shaped(device.address.text, peer, made(data), shape, hops),
    };
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
  const id = serial & 0xffff;
  // What a stack may write, so that each differs from the last.
  const own = { hops, id, trafficClass: id & 0xff, flowLabel: id, dontFragment: id % 3 === 0 };
  const whole = (fields: IpFields) => [ip(from, to, made, { ...own, ...fields })];
  if (shape === 'plain') return whole({});
  if (shape === 'options') return whole(six ? { extensions: [60] } : { options: new Uint8Array(4) });
  const bytes = made.bytes(address(from), address(to));
  if (shape === 'hopByHop') return whole(six ? { extensions: [0] } : {});
  if (shape === 'routed') {
    if (!six) return whole({});
    const header = Uint8Array.of(made.protocol, 2, (id % 3) * 2, 0, 0, 0, 0, 0, ...address(to).bytes);
    return [ip(from, to, raw(43, Uint8Array.of(...header, ...bytes)), { hops })];
  }
  // A first piece of an odd length (RFC 8200, 4.5: discarded) stands for itself in IPv6; in IPv4 it would be cut.
  if (bytes.length <= PIECE && !(six && shape === 'firstPiece')) return whole({});
  const piece = (part: Uint8Array, offset: number, more: boolean) =>
    ip(from, to, raw(made.protocol, part), { hops, id, fragment: { offset, more } });
  const first = piece(bytes.subarray(0, PIECE), 0, true);
  const later = piece(bytes.subarray(PIECE), PIECE, false);
  return { firstPiece: [first], laterPiece: [later], pieces: [first, later], piecesTurned: [later, first] }[shape];
}
