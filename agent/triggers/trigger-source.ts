/**
 * The one address and port (of each family) that triggers come from: devices
 * can trust it, since nothing else reaches their trigger ports (policy/
 * ruleset.ts), and answers come back to it alone.
 *
 * Over CoAP a trigger is brought when the device says so (coap.ts); over plain
 * UDP nobody ever knows more than that it left this host.
 *
 * A socket is opened with the first trigger that needs it and, where the
 * address is not there (yet), with a later one: until then nothing is sent. A
 * fault of a socket closes it and ends nothing else. Realms that share
 * addresses are not served: by the address alone a trigger might go to the
 * device of another realm.
 */
import { createSocket, type Socket } from 'node:dgram';
import { sharedRealms } from '../core/address-plan.ts';
import type { Address, Endpoint, Family, Prefix } from '../core/net.ts';
import { type Clock, type Log, monotonicMs, type Random } from '../core/ports.ts';
import { covers, type TriggerPlan } from '../core/trigger-plan.ts';
import type { RealmName } from '../core/words.ts';
import { CoapExchanges, TICK_MS } from './coap.ts';
import { PAYLOAD_MOST } from './coap-message.ts';
import type { Delivery, DeliveryOutcome } from './delivery.ts';

/** Devices that have not answered yet, at once: each takes some 2 KiB, for at most 93 s. */
const OUTSTANDING_MOST = 16_384;
/** An address that cannot be bound is not tried again with every trigger. */
const BIND_AGAIN_MS = 1_000;
const SOCKET_BUFFER_BYTES = 1024 * 1024;

/** What agent.yaml says of triggers, and of the realms they go to. */
interface TriggerConfig {
  readonly triggers?: TriggerPlan;
  readonly inside: readonly { readonly realm: RealmName; readonly prefixes: readonly Prefix[] }[];
}

interface Parts {
  readonly clock: Pick<Clock, 'monotonicNs'>;
  readonly random: Random;
  readonly log: Log;
}

/** The way of triggers to devices; undefined where agent.yaml has none. */
export function openDelivery({ triggers, inside }: TriggerConfig, parts: Parts): TriggerSource | undefined {
  return triggers && new TriggerSource(triggers, sharedRealms(inside), parts);
}

/** What came to the source port since the start. */
export interface TriggerSourceReading {
  readonly received: number;
  /** Of these, what belonged to no trigger under way. */
  readonly stray: number;
}

interface Bound {
  readonly socket: Socket;
  readonly ready: Promise<boolean>;
}

class TriggerSource implements Delivery {
  readonly #plan: TriggerPlan;
  /** Realms of which an address does not tell the device. */
  readonly #shared: ReadonlySet<string>;
  readonly #parts: Parts;
  readonly #sockets = new Map<Family, Bound>();
  readonly #faultedMs = new Map<Family, number>();
  readonly #coap: CoapExchanges;
  #timer: NodeJS.Timeout | undefined;
  #received = 0;
  #stray = 0;
  #closed = false;

  constructor(plan: TriggerPlan, shared: ReadonlySet<string>, parts: Parts) {
    const { clock, random } = parts;
    this.#plan = plan;
    this.#shared = shared;
    this.#parts = parts;
    this.#coap = new CoapExchanges({
      ...{ clock, random, path: plan.coapPath, most: OUTSTANDING_MOST },
      send: (to, datagram, signal) => this.#send(to, datagram, signal),
    });
  }

  get sourcePort(): number {
    return this.#plan.sourcePort;
  }

  get room(): number {
    return this.#closed ? 0 : this.#coap.room;
  }

  reading(): TriggerSourceReading {
    return { received: this.#received, stray: this.#stray };
  }

  async deliver(
    { inner, port, sourcePort }: Parameters<Delivery['deliver']>[0],
    payload: Uint8Array,
    signal: AbortSignal,
  ): Promise<DeliveryOutcome> {
    const plan = this.#plan;
    // What is no trigger port is not guarded; and from another port the device would have no reason to trust it.
    if (!covers(plan.ports, port) || (sourcePort !== undefined && sourcePort !== plan.sourcePort)) return 'rejected';
    if (payload.length > PAYLOAD_MOST) return 'rejected';
    if (signal.aborted || this.#shared.has(inner.realm)) return 'notSent';
    const to = { address: inner.address, port };
    if (!covers(plan.coapPorts, port)) return (await this.#send(to, Buffer.from(payload), signal)) ? 'sent' : 'notSent';
    const outcome = this.#coap.begin(to, payload, signal);
    this.#arm();
    return outcome;
  }

  /** Sends nothing more; what is under way stays without an outcome. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const sockets = [...this.#sockets.values()];
    this.#sockets.clear();
    await Promise.all(
      sockets.map(async ({ socket, ready }) => {
        if (await ready) await new Promise<void>((closed) => socket.close(closed));
      }),
    );
  }

  #arm(): void {
    if (this.#timer || this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#coap.pass();
      if (!this.#coap.isIdle) this.#arm();
    }, TICK_MS);
  }

  /** A socket may take a while to open: what was given up by then is not for whoever has the address now. */
  async #send(to: Endpoint, datagram: Buffer, signal?: AbortSignal): Promise<boolean> {
    const bound = this.#socketFor(to.address.family);
    if (!bound || !(await bound.ready) || signal?.aborted) return false;
    return new Promise((left) => {
      try {
        bound.socket.send(datagram, to.port, to.address.text, (fault) => left(!fault));
      } catch {
        left(false); // the socket was closed meanwhile
      }
    });
  }

  #socketFor(family: Family): Bound | undefined {
    const open = this.#sockets.get(family);
    if (open) return open;
    const source = this.#plan.sources.find((address) => address.family === family);
    const nowMs = monotonicMs(this.#parts.clock);
    const isEarly = nowMs - (this.#faultedMs.get(family) ?? Number.NEGATIVE_INFINITY) < BIND_AGAIN_MS;
    if (!source || isEarly || this.#closed) return undefined;
    const bound = this.#open(source, nowMs);
    this.#sockets.set(family, bound);
    return bound;
  }

  #open(source: Address, nowMs: number): Bound {
    const { log } = this.#parts;
    const plan = this.#plan;
    const type = source.family === 'ipv4' ? 'udp4' : 'udp6';
    const socket = createSocket({
      ...{ type, ipv6Only: type === 'udp6' },
      ...{ recvBufferSize: SOCKET_BUFFER_BYTES, sendBufferSize: SOCKET_BUFFER_BYTES },
      lookup: (host, _options, found) => found(null, host, source.family === 'ipv4' ? 4 : 6), // addresses only, no names
    });
    const ready = new Promise<boolean>((opened) => {
      socket.once('listening', () => opened(true));
      socket.on('error', ({ message }) => {
        log.error({ source: source.text, port: plan.sourcePort, message }, 'triggerSourceFault');
        if (this.#sockets.get(source.family)?.socket === socket) this.#sockets.delete(source.family);
        this.#faultedMs.set(source.family, nowMs);
        opened(false);
        socket.removeAllListeners('message').close();
      });
      socket.on('message', (datagram, { address, port }) => {
        this.#received += 1;
        if (!this.#coap.arrived(address, port, datagram)) this.#stray += 1;
        this.#arm();
      });
      socket.bind({ port: plan.sourcePort, address: source.text });
    });
    return { socket, ready };
  }
}
