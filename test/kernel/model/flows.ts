/**
 * Connection tracking as this model has it: flows that were let through, and
 * what a packet is to them. It knows no time: a case is over before a flow
 * could end.
 */
import type { Address } from '../../../agent/core/net.ts';
import { BEGINNING_TYPES } from '../../../agent/policy/filters.ts';
import type { Place } from './neighbourhood.ts';
import { type Packet, read } from './packet.ts';

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

export type State = 'new' | 'established' | 'related' | 'invalid' | 'untracked';
export interface Tracked {
  readonly state: State;
  readonly way?: 'original' | 'reply';
  readonly flow?: Flow;
}

const ANSWER_TYPES: Readonly<Record<number, number>> = { 8: 0, 13: 14, 15: 16, 17: 18, 128: 129 };
/** Neighbour discovery and multicast listeners, which connection tracking leaves alone. */
const UNTRACKED: readonly number[] = [130, 131, 132, 133, 134, 135, 136, 137, 143];
const [FIN, SYN, RST, ACK, URG] = [1, 2, 4, 16, 32];
/** That far ahead of what is next, a segment is of no window. */
const FAR = 0x1000_0000;

export class Flows {
  readonly all: Flow[] = [];

  track(packet: Packet): Tracked {
    if (packet.quoteAt !== undefined) return this.#trackError(packet, packet.quoteAt);
    const known = this.of(packet);
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
    const known = this.of(turned(quote));
    if (!known || quote.source.text !== packet.destination.text) return { state: 'invalid' };
    return { ...known, state: 'related' };
  }

  /** The flow that a packet is of, as it is on the wire, and which way it goes. */
  of(packet: Packet): { flow: Flow; way: 'original' | 'reply' } | undefined {
    const { source, destination, protocol, icmp } = packet;
    const id = icmp?.id ?? 0;
    const { source: sourcePort, destination: destinationPort } = packet.ports ?? { source: id, destination: id };
    for (const flow of this.all) {
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

export function begun(begunBy: Flow['begunBy'], packet: Packet, place: Place): Flow {
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
export function begins({ tcp }: Packet, state: State, way: Tracked['way']): boolean {
  if (state === 'established') return way === 'original';
  if (state !== 'new') return false;
  return !tcp || (tcp.flags & (FIN | SYN | RST | ACK)) === SYN;
}
