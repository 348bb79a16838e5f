/**
 * The gate's twin in memory: the same calls and the same verdicts, written to
 * be seen right at a glance. It looks through lists, it makes every sum anew,
 * it knows no kernel. Tests hold the gate against it, packet by packet; it has
 * no feature of its own, and where the two differ one of them is wrong.
 *
 * What a packet meets stands in a function for each hook, in the order of
 * gate.bpf.c. What is known stands in memory-tables.ts.
 *
 * Each packet counts once: at the ingress hook where it came in, as carried,
 * answered, passed or denied; at the egress hook only if it is denied there.
 */
import type { Address } from '../core/net.ts';
import { ANSWER_MARK, type DenialReason, LET_IN_MARK, OWN_MARK } from '../core/reasons.ts';
import type { Protocol } from '../core/words.ts';
import type { Hook, JudgingDataplane, Mapping, Verdict } from './dataplane.ts';
import { ETHERNET, hasImpossibleSource, type Packet, readFrame } from './frame.ts';
import {
  icmpHeaderType,
  icmpMessage,
  icmpSumHolds,
  isCarriedError,
  isEchoRequest,
  isIcmp,
  isIcmpError,
  QUOTED,
  type Quote,
  readQuote,
  readQuotedHeader,
} from './frame-icmp.ts';
import { translated } from './leaving.ts';
import { echoReply, errorAnew, leavingError, tooBig } from './leaving-icmp.ts';
import { holds, MemoryTables, type Row, SECOND_NS } from './memory-tables.ts';
import {
  inGrantsPool,
  isAdmitted,
  isHost,
  isInner,
  isInside,
  isLinkUpkeep,
  isOfAll,
  isWelcome,
  ownerOf,
} from './owners.ts';
import { type Piece, Pieces, readPiece } from './pieces.ts';
import { plus } from './tally.ts';

/** A second's worth, at once. */
const ICMP_BURST = 10n;
const ICMP_BUCKETS = 4096n;
/** So many nanoseconds' samples, at once. */
const SAMPLE_BURST_NS = SECOND_NS / 10n;
/** Of so many parts one source has one. */
const SAMPLE_SHARE = 8n;
/** Headers of IP and TCP, which the MSS leaves out. */
const HEADERS = { ipv4: 40, ipv6: 60 } as const;

/** What of a packet names its flow: as it stands in it, or as the first piece said. */
interface Shown {
  readonly protocol: Protocol;
  readonly ports: { readonly source: number; readonly destination: number };
  readonly piece?: Piece;
}

/** Where a packet from outside aims at: the pool, or a device of a realm. */
type Aim = 'pool' | { readonly realm: number; readonly isSeen: boolean };

export class Memory extends MemoryTables implements JudgingDataplane {
  readonly #pieces = new Pieces();
  readonly #icmpFullNs = new Map<bigint, bigint>();
  readonly #sampleNextNs = new Map<string, bigint>();

  judge(hook: Hook, ifindex: number, frame: Uint8Array, mark = 0, from = 0): Verdict {
    if (hook === 'outsideIngress') return this.#fromOutside(frame);
    if (hook === 'insideIngress') return this.#fromInside(ifindex, frame);
    if (hook === 'insideEgress') return this.#toInside(ifindex, frame, mark, from);
    return this.#toOutside(frame, mark);
  }

  #fromOutside(frame: Uint8Array): Verdict {
    const packet = readFrame(frame);
    if (packet === 'other') return this.#pass(frame);
    if (packet === 'malformed') return this.#deny('malformed', frame);
    const { source, destination, ports, hops } = packet;
    let aim: Aim = 'pool';
    if (!inGrantsPool(this.setup, destination)) {
      if (hasImpossibleSource(packet) || isInside(this.setup, source)) return this.#deny('spoofedSource', frame);
      const owner = ownerOf(this.setup, destination);
      if (owner.kind === 'hostInside') return this.#deny('realmDestination', frame);
      if (owner.kind !== 'device') return this.#pass(frame);
      aim = owner;
    }
    const refuse = (reason: DenialReason) => this.#refuse(aim, reason, packet, frame);

    let shown: Shown;
    let row: Row | undefined;
    if (typeof ports === 'object') shown = { protocol: ports.protocol, ports };
    else if (ports === 'fragment') {
      const piece = readPiece(frame, packet);
      if (typeof piece === 'string') return refuse('fragment');
      const followed = piece.ports ? undefined : this.#pieces.follow('outside', packet, piece, this.#nowNs());
      const [said, where] = [piece.ports ?? followed?.ports, followed?.of];
      row = where && this.entries.get(where.index);
      if (!said || (where && row?.mapping.number !== where.number)) return refuse('fragment');
      shown = { protocol: piece.protocol, ports: said, piece };
    } else if (isIcmp(packet)) return this.#icmpFromOutside(aim, packet, frame);
    else return refuse(ports);

    const { protocol, ports: those, piece } = shown;
    const endpoint = { address: destination, port: those.destination };
    row ??=
      aim === 'pool' ? this.byEndpoint(protocol, endpoint) : this.untranslated(aim.realm, protocol, endpoint, source);
    if (!row) return refuse('noGrant');
    const { mapping } = row;
    if (!this.alive(row)) return refuse('grantEnded');
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    if (this.classOf(source) !== mapping.classId) return this.#deny('wrongSource', frame);
    if (!isRemote(mapping, source, those.source)) return this.#deny('wrongSource', frame);
    if (hops <= 1) return this.#deny('hopLimit', frame);
    const inside = this.#leadingTo(mapping.realm);
    if (!inside) return refuse('noGrant');
    const isTooBig = packet.contentEnd - ETHERNET > (inside.mtu ?? Number.POSITIVE_INFINITY);
    if (isTooBig && (!packet.mayBeCut || piece)) return this.#tooBig(row, shown, packet, inside.mtu ?? 0, frame);
    const beyond = this.#beyondLimits(row, frame);
    if (beyond) return this.#deny(beyond, frame);
    if (piece && !this.#pieces.remember('outside', packet, shown.ports, piece, mapping, this.#nowNs()))
      return this.#deny('fragment', frame);
    const mss = this.#mss(packet, inside.mtu);
    const change = { end: 'destination', to: mapping.device, number: mapping.number, mss, byStack: isTooBig } as const;
    const bytes = translated(frame, packet, piece, change, this.setup);
    return this.#carry(row, 'in', frame, isTooBig ? 'cut' : 'redirect', bytes);
  }

  /** What nothing carries: the pool is closed, a device's own address open to what is admitted, a known one to the base's word. */
  #refuse(aim: Aim, reason: DenialReason, packet: Packet, frame: Uint8Array): Verdict {
    if (aim === 'pool') return this.#deny(reason, frame);
    if (aim.isSeen) return this.#pass(frame);
    if (this.admitted.some((one) => isAdmitted(one, packet, frame))) return this.#pass(frame);
    return this.#deny('realmDestination', frame);
  }

  #icmpFromOutside(aim: Aim, packet: Packet, frame: Uint8Array): Verdict {
    const refuse = (reason: DenialReason) => this.#refuse(aim, reason, packet, frame);
    const type = icmpHeaderType(frame, packet);
    if (type === 'malformed') return refuse('malformed');
    if (!isIcmpError(packet, type)) {
      const isAnswered = aim === 'pool' && isEchoRequest(packet, type);
      if (!isAnswered || !this.admitted.some((one) => isAdmitted(one, packet, frame)))
        return refuse('protocolNotCarried');
      if (hasImpossibleSource(packet) || isInside(this.setup, packet.source)) return this.#deny('spoofedSource', frame);
      if (!this.#takesIcmp(wordsOf(packet.source))) return this.#deny('icmpRateExceeded', frame);
      this.tally.add('echoesAnswered', frame);
      return { verdict: 'redirect', bytes: echoReply(frame, packet, this.setup) };
    }
    const quote = isCarriedError(packet, type, false) ? readQuote(frame, packet) : undefined;
    if (quote?.source.address.text !== packet.destination.text) return refuse('errorNotCarried');
    const { source, destination, protocol } = quote;
    const row =
      aim === 'pool'
        ? this.byEndpoint(protocol, source)
        : this.untranslated(aim.realm, protocol, source, destination.address);
    if (!row || !this.alive(row)) return refuse('errorNotCarried');
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    const { mapping } = row;
    const isBelieved =
      this.#leadingTo(mapping.realm) !== undefined &&
      this.classOf(destination.address) === mapping.classId &&
      isRemote(mapping, destination.address, destination.port) &&
      !hasImpossibleSource(packet) &&
      !isInside(this.setup, packet.source);
    if (!isBelieved || !icmpSumHolds(frame, packet)) return this.#deny('errorNotCarried', frame);
    return this.#carryError(row, packet, quote, 'source', frame);
  }

  /** Toward a device, whoever sends: what is not dropped was counted where it came in. */
  #toInside(ifindex: number, frame: Uint8Array, mark: number, from: number): Verdict {
    const inside = this.setup.inside.find((one) => one.ifindex === ifindex);
    if (!inside) return { verdict: 'pass' };
    const packet = readFrame(frame);
    if (packet === 'other') return { verdict: 'pass' };
    const isLetIn = inside.translated || mark === LET_IN_MARK || from !== this.setup.outside.ifindex;
    if (!isLetIn) return this.#drop('realmDestination', frame);
    if (this.changing.size === 0) return { verdict: 'pass' };
    if (packet === 'malformed') return this.#drop('malformed', frame);
    if (holds(this.changing, inside.realm, packet.destination)) return this.#drop('addressChangingHands', frame);
    return { verdict: 'pass' };
  }

  #fromInside(ifindex: number, frame: Uint8Array): Verdict {
    const inside = this.setup.inside.find((one) => one.ifindex === ifindex);
    const packet = readFrame(frame);
    if (!inside || packet === 'other') return this.#pass(frame);
    if (packet === 'malformed') return this.#deny('malformed', frame);
    const { realm } = inside;
    const { source, destination, ports, hops } = packet;
    if (holds(this.changing, realm, source)) return this.#deny('addressChangingHands', frame);
    if (ports === 'malformed') return this.#deny('malformed', frame);

    let shown: Shown;
    let row: Row | undefined;
    if (typeof ports === 'object') shown = { protocol: ports.protocol, ports };
    else if (ports === 'fragment') {
      const piece = readPiece(frame, packet);
      if (piece === 'broken') return this.#deny('fragment', frame);
      if (piece === 'ofAnotherProtocol') return this.#guardFromInside(realm, packet, frame);
      const followed = piece.ports ? undefined : this.#pieces.follow(realm, packet, piece, this.#nowNs());
      const [said, where] = [piece.ports ?? followed?.ports, followed?.of];
      row = where && this.entries.get(where.index);
      if (!said || (where && row?.mapping.number !== where.number)) return this.#guardFromInside(realm, packet, frame);
      shown = { protocol: piece.protocol, ports: said, piece };
    } else if (isIcmp(packet)) return this.#icmpFromInside(realm, packet, frame);
    else return this.#guardFromInside(realm, packet, frame);

    const { protocol, ports: those, piece } = shown;
    row ??= this.byDevice(realm, protocol, { address: source, port: those.source }, destination);
    if (!row) return this.#guardFromInside(realm, packet, frame);
    const { mapping } = row;
    const isGranted = isRemote(mapping, destination, those.destination);
    if (!this.alive(row)) {
      if (protocol === 'udp' && isGranted && this.#rests(row)) return this.#deny('tombstone', frame);
      return this.#guardFromInside(realm, packet, frame);
    }
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    if (!isGranted) return this.#deny('wrongRemote', frame);
    if (hops <= 1) return this.#deny('hopLimit', frame);
    const { mtu } = this.setup.outside;
    if (mtu !== undefined && packet.contentEnd - ETHERNET > mtu) return this.#tooBig(row, shown, packet, mtu, frame);
    const beyond = this.#beyondLimits(row, frame);
    if (beyond) return this.#deny(beyond, frame);
    if (piece && !this.#pieces.remember(realm, packet, shown.ports, piece, mapping, this.#nowNs()))
      return this.#deny('fragment', frame);
    const mss = this.#mss(packet, this.#leadingTo(realm)?.mtu);
    const change = { end: 'source', to: mapping.external, number: mapping.number, mss } as const;
    return this.#carry(row, 'out', frame, 'redirect', translated(frame, packet, piece, change, this.setup));
  }

  #icmpFromInside(realm: number, packet: Packet, frame: Uint8Array): Verdict {
    const type = icmpHeaderType(frame, packet);
    const quote = type !== 'malformed' && isIcmpError(packet, type) ? readQuote(frame, packet) : undefined;
    const row = quote && this.byDevice(realm, quote.protocol, quote.destination, quote.source.address);
    if (!quote || !row || !this.alive(row)) return this.#guardFromInside(realm, packet, frame);
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    const { mapping } = row;
    const isBelieved =
      isCarriedError(packet, type as number, true) &&
      packet.destination.text === quote.source.address.text &&
      isRemote(mapping, quote.source.address, quote.source.port) &&
      (packet.source.text === mapping.device.address.text || !holds(this.bound, realm, packet.source));
    if (!isBelieved || !icmpSumHolds(frame, packet)) return this.#deny('errorNotCarried', frame);
    return this.#carryError(row, packet, quote, 'destination', frame);
  }

  /** From a device, and no answer: to the host only what it serves, to other devices nothing; from an address that nobody holds only what the link needs. */
  #guardFromInside(realm: number, packet: Packet, frame: Uint8Array): Verdict {
    const { source, destination } = packet;
    if (isHost(this.setup, destination)) {
      if (!isWelcome(this.setup, packet, frame)) return this.#deny('gatewayService', frame);
    } else if (ownerOf(this.setup, destination).kind === 'device') return this.#deny('deviceToDevice', frame);
    const maySpeak = !this.setup.onlyBound || holds(this.bound, realm, source);
    const isUpkeep = isLinkUpkeep(this.setup, packet, frame);
    if (!maySpeak && !isUpkeep) return this.#deny('addressUnbound', frame);
    if (isOfAll(destination) && !isUpkeep && !isWelcome(this.setup, packet, frame))
      return this.#deny('gatewayService', frame);
    return this.#pass(frame);
  }

  #toOutside(frame: Uint8Array, mark: number): Verdict {
    if (mark === OWN_MARK) return { verdict: 'pass' };
    const packet = readFrame(frame);
    if (packet === 'other') return { verdict: 'pass' };
    if (packet === 'malformed') return this.#drop('malformed', frame);
    const owner = ownerOf(this.setup, packet.source);
    const isLetOut = owner.kind === 'device' && mark === ANSWER_MARK;
    if (isInside(this.setup, packet.source) && !isLetOut) return this.#drop('innerLeak', frame);
    const isKnown = isLetOut && !owner.isSeen;
    const message = icmpMessage(frame, packet);
    if (message === 'malformed') return this.#drop('malformed', frame);
    if (message === 'none' || !isIcmpError(packet, message.type)) return { verdict: 'pass' };
    const quoted = readQuotedHeader(frame, packet, message.at);
    if (!quoted) return this.#drop('malformed', frame);
    if (!isKnown && [quoted.source, quoted.destination].some((address) => isInner(this.setup, address)))
      return this.#drop('innerLeak', frame);
    if (!isCarriedError(packet, message.type, false))
      return isKnown ? this.#drop('errorNotCarried', frame) : { verdict: 'pass' };
    if (message.isPiece) return this.#drop('fragment', frame);
    if (quoted.contentAt + QUOTED > packet.contentEnd) return this.#drop('malformed', frame);
    const bytes = leavingError(frame, packet, message.at, quoted, this.setup);
    return Buffer.compare(bytes, frame) === 0 ? { verdict: 'pass' } : { verdict: 'pass', bytes };
  }

  #nowNs(): bigint {
    return this.clock.monotonicNs();
  }

  #rests(row: Row): boolean {
    return row.endNs + BigInt(this.setup.udpTombstoneSeconds) * SECOND_NS > this.#nowNs();
  }

  /** The interface of a realm, if it is there. */
  #leadingTo(realm: number) {
    return this.setup.inside.find((one) => one.realm === realm && one.ifindex !== undefined);
  }

  /** The largest segment that the outside and a realm take. */
  #mss({ family }: Packet, realm: number | undefined): number | undefined {
    const mtus = [this.setup.outside.mtu, realm].filter((mtu) => mtu !== undefined);
    const mss = Math.min(...mtus) - HEADERS[family];
    return this.setup.normalise.mss && mtus.length > 0 && mss > 0 ? mss : undefined;
  }

  /** Why a live grant does not carry this all the same. */
  #beyondLimits(row: Row, frame: Uint8Array): DenialReason | undefined {
    if (!row.allowance.takesPacket(this.#nowNs())) return 'packetRateExceeded';
    if (row.allowance.hasRoomFor(frame.length, row.carried.in.bytes + row.carried.out.bytes)) return undefined;
    if (!row.usedUp) this.used.push({ index: row.mapping.index, number: row.mapping.number });
    row.usedUp = true;
    return 'byteQuotaExceeded';
  }

  #agentLost(): boolean {
    const graceNs = BigInt(this.setup.orphanGraceSeconds) * SECOND_NS;
    return this.heardNs === 0n || this.heardNs + graceNs <= this.#nowNs();
  }

  /** One ICMP message of those that share a bucket. */
  #takesIcmp(whose: bigint): boolean {
    const interval = SECOND_NS / ICMP_BURST;
    const bucket = whose % ICMP_BUCKETS;
    const now = this.#nowNs();
    const was = this.#icmpFullNs.get(bucket) ?? 0n;
    const full = (was > now ? was : now) + interval;
    if (full - now > interval * ICMP_BURST) return false;
    this.#icmpFullNs.set(bucket, full);
    return true;
  }

  #tooBig({ mapping }: Row, { protocol, piece }: Shown, packet: Packet, mtu: number, frame: Uint8Array): Verdict {
    if (piece || !this.#takesIcmp(BigInt(mapping.index))) return this.#deny('packetTooBig', frame);
    this.tally.add('packetTooBig', frame);
    return { verdict: 'redirect', bytes: tooBig(frame, packet, protocol, mtu, this.setup) };
  }

  #carryError(
    { mapping }: Row,
    packet: Packet,
    quote: Quote,
    end: 'source' | 'destination',
    frame: Uint8Array,
  ): Verdict {
    if (packet.hops <= 1) return this.#deny('hopLimit', frame);
    if (!this.#takesIcmp(BigInt(mapping.index))) return this.#deny('icmpRateExceeded', frame);
    const to = end === 'source' ? mapping.device : mapping.external;
    const bytes = errorAnew(frame, packet, quote, { end, to }, this.setup);
    this.tally.add('errorsCarried', bytes);
    return { verdict: 'redirect', bytes };
  }

  #carry(
    row: Row,
    direction: 'in' | 'out',
    frame: Uint8Array,
    verdict: 'redirect' | 'cut',
    bytes: Uint8Array,
  ): Verdict {
    row.carried[direction] = plus(row.carried[direction], frame);
    this.tally.add(direction === 'in' ? 'grantedIn' : 'grantedOut', frame);
    return { verdict, bytes };
  }

  #pass(frame: Uint8Array): Verdict {
    this.tally.add('passed', frame);
    return { verdict: 'pass' };
  }

  #drop(reason: DenialReason, frame: Uint8Array): Verdict & { readonly verdict: 'drop' } {
    this.tally.add(reason, frame);
    return { verdict: 'drop', reason, sampled: false };
  }

  /** A denial that may be looked at: one an interval on the average, of one source one in eight intervals. */
  #deny(reason: DenialReason, frame: Uint8Array): Verdict {
    const dropped = this.#drop(reason, frame);
    if (this.sampleEveryNs === 0n) return dropped;
    const now = this.#nowNs();
    const packet = readFrame(frame);
    const source = typeof packet === 'string' ? packet : packet.source.text;
    const ownNextNs = this.#sampleNextNs.get(source) ?? 0n;
    if (now + SAMPLE_BURST_NS < this.sampleNextNs || now + SAMPLE_BURST_NS < ownNextNs) return dropped;
    this.sampleNextNs = (now > this.sampleNextNs ? now : this.sampleNextNs) + this.sampleEveryNs;
    this.#sampleNextNs.set(source, (now > ownNextNs ? now : ownNextNs) + this.sampleEveryNs * SAMPLE_SHARE);
    this.tally.add('sampled', frame);
    return { ...dropped, sampled: true };
  }
}

function isRemote({ remote, remotePort }: Mapping, address: Address, port: number): boolean {
  return (remote === 'all' || remote.text === address.text) && (remotePort === 0 || remotePort === port);
}

/** The words of an address, laid over each other: as the gate finds a bucket. */
function wordsOf({ bytes }: Address): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return [0, 4, 8, 12].reduce((all, at) => all ^ BigInt(view.getUint32(at, true)), 0n);
}
