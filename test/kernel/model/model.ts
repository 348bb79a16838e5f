/**
 * What the whole gateway must do with a packet, as a model that can be read:
 * the gate by its twin (memory.ts), the host's stack (stack.ts), connection
 * tracking (flows.ts), and base and filters as what they are for (base.ts).
 */
import { contains, type Prefix } from '../../../agent/core/net.ts';
import { ANSWER_MARK, DENIAL_PREFIX } from '../../../agent/core/reasons.ts';
import type { GateSetup, Hook } from '../../../agent/dataplane/dataplane.ts';
import { Memory } from '../../../agent/dataplane/memory.ts';
import type { FilteredPacket } from '../../../agent/policy/filters.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { ethernet } from '../../frames.ts';
import { BaseModel, ECHO } from './base.ts';
import { begun, type Flow, Flows, type State, type Tracked } from './flows.ts';
import { ifindexIn } from './gateway.ts';
import { bindings, isOwn, type Place, placeOf, realmId } from './neighbourhood.ts';
import { type Changes, numbered, type Packet, read, translated, viewOf } from './packet.ts';
import {
  GROUPS,
  HEARD,
  inOneOf,
  MARTIAN_DESTINATIONS,
  MARTIAN_SOURCES,
  Pieces,
  UNFORWARDED_SOURCES,
  UNHEARD_DESTINATIONS,
  UNHEARD_SOURCES,
} from './stack.ts';

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

export class Model {
  readonly memory: Memory;
  readonly base: BaseModel;
  readonly flows = new Flows();
  readonly #setup: GateSetup;
  readonly #egress: readonly Prefix[];
  readonly #pieces = new Pieces();
  /** Each device keeps its one address outside (RFC 4787 REQ-2). */
  readonly #pairs = new Map<string, string>();
  #silent = 0;

  constructor(
    setup: GateSetup,
    { egress, denied, policy }: { egress: readonly Prefix[]; denied: readonly Prefix[]; policy: Policy },
  ) {
    const now = () => process.hrtime.bigint();
    this.memory = new Memory({ nowMs: Date.now, monotonicNs: now, boottimeNs: now }, setup);
    for (const { realm, prefix } of bindings()) this.memory.bind(realmId(realm), prefix);
    this.base = new BaseModel({ denied, policy });
    this.#setup = setup;
    this.#egress = egress;
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
        outcome: `drop ${this.base.named(verdict.reason, bytes)}`,
        gate: [verdict.reason, 'sampled'],
        log: [`${DENIAL_PREFIX}${verdict.reason}`],
      };
    if (verdict.verdict === 'pass') return this.#toStack(from, read(bytes));
    const carried = read(verdict.bytes.subarray(14));
    const at = from === 'outside' ? placeOf(carried.destination) : 'outside';
    if (carried.icmp?.type === ECHO_REPLY[carried.family])
      return {
        why: 'a filter lets the external address answer',
        outcome: 'pass grant',
        gate: ['echoesAnswered'],
        log: [],
        arrives: { at: from, check: sameAs(verdict.bytes.subarray(14)) },
      };
    if (carried.icmp)
      return {
        why: 'the gate carries an error about what it carried',
        outcome: 'pass grant',
        gate: ['errorsCarried'],
        log: [],
        arrives: { at, check: sameAs(verdict.bytes.subarray(14)) },
      };
    return {
      why: 'the gate carries it',
      outcome: 'pass grant',
      gate: [from === 'outside' ? 'grantedIn' : 'grantedOut'],
      log: [],
      arrives: { at, check: sameAs(verdict.bytes.subarray(14)) },
      carried: this.base.view(from === 'outside' ? carried : read(bytes), from, at),
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
    if (inOneOf(UNHEARD_SOURCES, piece.source)) return ends('drop base', 'the stack: no such source', []);
    if (inOneOf(UNHEARD_DESTINATIONS, piece.destination)) return ends('drop base', 'the stack: no destination', []);
    const packet = this.#pieces.whole(from, piece);
    if (!packet) return ends('held', 'a fragment that waits for the rest', []);
    const { source, destination } = packet;
    const { ipv4, ipv6 } = this.#setup.pool;
    if ([...ipv4, ...ipv6].some((one) => contains(one, destination))) {
      this.#silent += 1;
      return ends('drop base', 'to the grants pool', ['met']);
    }
    if (this.#egress.some((one) => contains(one, destination)) && (from !== 'outside' || packet.hops <= 1)) {
      this.#silent += 1;
      return ends('drop base', 'to the egress pool, from a device or with no hop left', ['met']);
    }
    const tracked = this.flows.track(packet);
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
    if ((isOwn(target) && target.text !== '::') || inOneOf(HEARD, target)) {
      const heard = this.#isHeard(from, packet);
      if (!heard) this.#silent += 1;
      return ends('host', 'to the gateway', [...met, 'input', ...(heard ? ['heard'] : [])], { mayAnswer: heard });
    }
    if (inOneOf(GROUPS, target)) return ends('drop base', 'the stack: a group of others', met);
    if (this.#egress.some((one) => contains(one, target)))
      return ends('drop base', 'a blackhole: no flow of the egress pool', met);
    const to = placeOf(target);
    if (packet.hops <= 1) return ends('expired', 'no hop is left', met, { mayAnswer: true });
    if (inOneOf(UNFORWARDED_SOURCES, source))
      return ends('drop base', 'the stack: a source that is not forwarded', met, { mayAnswer: true });
    const forwarded = [...met, 'forward'];
    const seen = inward ? read(translated(packet, back)) : packet;
    const said = from === 'outside' ? this.base.inward(seen, to, tracked) : this.base.outward(seen, from, to, tracked);
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
      if (!flow) this.flows.all.push(begun('outside', packet, to));
      return { ...base, arrives: { at: to, check: sameAs(translated(packet, { ...back, alike: 'inward' })) } };
    }
    if (!flow) {
      const fresh = begun('device', packet, from);
      this.flows.all.push(fresh);
      return { ...base, arrives: { at: to, check: (whole) => this.#checkHidden(packet, fresh, whole) } };
    }
    const bytes = translated(packet, { ...this.#outOf(flow, state), alike: 'outward' });
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
    const leaves = 'bytes' in guard && guard.bytes ? guard.bytes.subarray(14) : bytes;
    return { ...base, arrives: { at: to, check: sameButNumber(leaves) } };
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
    return sameButNumber(translated(packet, { source, sourcePort: port, alike: 'outward' }))(whole);
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

  #isHeard(from: Place, packet: Packet): boolean {
    if (from === 'outside') return true;
    const { protocol, ports, icmp, family } = packet;
    if (protocol === 17) return ports?.destination === 53;
    const isUpkeep = family === 'ipv6' && icmp !== undefined && UPKEEP.includes(icmp.type);
    return isUpkeep || icmp?.type === ECHO[family];
  }
}

/** Of a link to a device (RFC 4861): router solicitation, neighbour solicitation and advertisement. */
const UPKEEP: readonly number[] = [133, 135, 136];

const ECHO_REPLY: Readonly<Record<string, number>> = { ipv4: 0, ipv6: 129 };

/** Of an IPv4 packet that may be cut the identification is drawn by chance; of another there is none. */
function sameButNumber(bytes: Uint8Array): (whole: Packet) => string | undefined {
  return (whole) => {
    if (whole.family === 'ipv6') return sameAs(bytes)(whole);
    const mayBeCut = ((bytes[6] ?? 0) & 0x40) === 0;
    return sameAs(numbered(bytes, mayBeCut ? viewOf(whole.bytes).getUint16(4) : 0))(whole);
  };
}

function sameAs(bytes: Uint8Array): (whole: Packet) => string | undefined {
  return (whole) => {
    const [wanted, found] = [bytes, whole.bytes].map((one) => Buffer.from(one).toString('hex'));
    return wanted === found ? undefined : `came as  ${found}\n   not as  ${wanted}`;
  };
}
