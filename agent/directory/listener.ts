/**
 * The accounting server's sockets: datagram -> client -> request -> event ->
 * handler -> answer. The good path runs straight down; whatever leaves it is
 * dropped without an answer, counted, and told in the log once in a while.
 *
 * An answer goes out only when the handler's promise resolves, since to the
 * NAS it means that the change has been made. A request that comes again
 * meanwhile is ignored, afterwards answered with the same bytes (exchanges.ts).
 * Each socket is bound to one address, so that answers come from the address
 * that was asked, and nothing is offered where agent.yaml does not say so.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { AgentError } from '../core/errors.ts';
import { type Address, type Endpoint, formatEndpoint } from '../core/net.ts';
import { type Clock, type Log, monotonicMs } from '../core/ports.ts';
import type { AccountingEvent, Outcome } from './accounting.ts';
import { eventOf } from './attributes.ts';
import { type RadiusClient, RadiusClients, sourceOf } from './clients.ts';
import { DROPS, type Drop, DropAccount } from './drops.ts';
import { type Exchange, Exchanges } from './exchanges.ts';
import { type Request, readRequest, responseTo } from './radius.ts';
import { droppedAt } from './udp-table.ts';

/** What a socket should hold while the agent's loop is busy: some thousand requests. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

export interface ListenerOptions {
  readonly listen: readonly Endpoint[];
  readonly clients: readonly RadiusClient[];
  /** Carries an event out. Must not be called twice for one request, and never is while the first call runs. */
  readonly handle: (event: AccountingEvent) => Promise<Outcome>;
  readonly log: Log;
  readonly clock: Clock;
}

/** What went by since the start. */
export interface ListenerReading {
  readonly received: number;
  /** Events handed over and answered, by what became of them. */
  readonly done: number;
  readonly refused: number;
  /** Requests that came again: answered again, or ignored while in progress. */
  readonly repeated: number;
  readonly inProgress: number;
  readonly dropped: ReturnType<DropAccount['counts']>;
  /** Datagrams that the kernel had no room for. */
  readonly lostInKernel: number;
}

export class AccountingListener {
  readonly #options: ListenerOptions;
  readonly #sockets: Socket[] = [];
  readonly #bound: Endpoint[] = [];
  readonly #exchanges = new Exchanges();
  readonly #drops = new DropAccount();
  readonly #running = new Set<Promise<void>>();
  #clients: RadiusClients;
  #received = 0;
  #done = 0;
  #refused = 0;
  #repeated = 0;
  #lostInKernel = 0;

  private constructor(options: ListenerOptions) {
    this.#options = options;
    this.#clients = new RadiusClients(options.clients);
  }

  /** Listens on all addresses, or on none. @throws AgentError listenFailed */
  static async open(options: ListenerOptions): Promise<AccountingListener> {
    const listener = new AccountingListener(options);
    try {
      for (const endpoint of options.listen) await listener.#bind(endpoint);
    } catch (fault) {
      await listener.close();
      throw fault;
    }
    return listener;
  }

  /** Where it listens; a port 0 was given a number. */
  get bound(): readonly Endpoint[] {
    return this.#bound;
  }

  /** Other clients, other secrets, from the next datagram on. What is in progress is answered as it was asked. */
  reload(clients: readonly RadiusClient[]): void {
    this.#clients = new RadiusClients(clients);
  }

  reading(): ListenerReading {
    return {
      received: this.#received,
      done: this.#done,
      refused: this.#refused,
      repeated: this.#repeated,
      inProgress: this.#exchanges.inProgress,
      dropped: this.#drops.counts(),
      lostInKernel: this.#lostInKernel,
    };
  }

  /** Asks the kernel what it had no room for, and says so; to be called every few seconds. */
  look(): void {
    let lost = 0;
    for (const endpoint of this.#bound) {
      const table = endpoint.address.family === 'ipv4' ? '/proc/net/udp' : '/proc/net/udp6';
      lost += droppedAt(readFileSync(table, 'latin1'), endpoint);
    }
    if (lost > this.#lostInKernel) this.#options.log.error({ datagrams: lost - this.#lostInKernel }, 'radiusLost');
    this.#lostInKernel = lost;
  }

  /** Takes no more requests, answers those in progress, then closes. */
  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.removeAllListeners('message');
    while (this.#running.size > 0) await Promise.all(this.#running);
    await Promise.all(this.#sockets.map((socket) => new Promise<void>((closed) => socket.close(closed))));
  }

  async #bind(endpoint: Endpoint): Promise<void> {
    const { log } = this.#options;
    const type = endpoint.address.family === 'ipv4' ? 'udp4' : 'udp6';
    const socket = createSocket({ type, ipv6Only: type === 'udp6', recvBufferSize: RECEIVE_BUFFER_BYTES });
    const where = formatEndpoint(endpoint);
    await new Promise<void>((bound, failed) => {
      socket.once('error', (cause) => {
        socket.close();
        failed(new AgentError('listenFailed', `radius address ${where}: ${cause.message}`, { cause }));
      });
      socket.bind({ port: endpoint.port, address: endpoint.address.text }, bound);
    });
    socket.removeAllListeners('error').on('error', ({ message }) => log.error({ where, message }, 'radiusFault'));
    const bytes = socket.getRecvBufferSize();
    if (bytes < RECEIVE_BUFFER_BYTES) log.warn({ where, bytes, wanted: RECEIVE_BUFFER_BYTES }, 'radiusBufferSmall');
    socket.on('message', (datagram, remote) => this.#take(socket, where, datagram, remote));
    this.#sockets.push(socket);
    this.#bound.push({ address: endpoint.address, port: socket.address().port });
  }

  #take(socket: Socket, where: string, datagram: Buffer, remote: RemoteInfo): void {
    this.#received += 1;
    const source = sourceOf(remote.address);
    const client = source && this.#clients.find(source);
    const drop = client ? this.#takeFrom(client, source, { socket, where, datagram, remote }) : UNKNOWN_CLIENT;
    if (drop) this.#drop(remote, client, drop);
  }

  #takeFrom(client: RadiusClient, source: Address, { socket, where, datagram, remote }: Arrived): Drop | undefined {
    const request = readRequest(datagram, client.secret);
    if ('drop' in request) return request;
    const event = eventOf(request.attributes, client.name, source, this.#options.clock.nowMs());
    if ('drop' in event) return event;
    const key = `${where} ${remote.address} ${remote.port} ${request.identifier}`;
    const arrival = this.#exchanges.arrive(key, client.name, request.authenticator, this.#nowMs());
    if (arrival === 'tooManyInProgress') return { drop: arrival };
    if (arrival === 'inProgress' || 'answer' in arrival) {
      this.#repeated += 1;
      if (arrival !== 'inProgress') this.#run(this.#send(socket, arrival.answer, remote));
      return undefined;
    }
    this.#run(this.#carryOut(event, { socket, remote, client, request, exchange: arrival.begun }));
    return undefined;
  }

  /** `close` waits for it. It never fails. */
  #run(task: Promise<void>): void {
    this.#running.add(task);
    task.finally(() => this.#running.delete(task));
  }

  async #carryOut(event: AccountingEvent, { socket, remote, client, request, exchange }: Taken): Promise<void> {
    let drop: (Drop & { message?: string }) | undefined;
    try {
      const outcome = await this.#options.handle(event);
      if (outcome === 'later') drop = { drop: 'notNow' };
      else if (outcome === 'done') this.#done += 1;
      else this.#refused += 1;
    } catch (fault) {
      drop = { drop: 'fault', message: (fault as Error).message };
    }
    const answer = drop ? undefined : responseTo(request, client.secret);
    const awaited = this.#exchanges.end(exchange, answer, this.#nowMs());
    if (drop) this.#drop(remote, client, drop);
    else if (answer && awaited) await this.#send(socket, answer, remote);
  }

  #send(socket: Socket, answer: Buffer, { address, port }: RemoteInfo): Promise<void> {
    return new Promise((sent) => {
      socket.send(answer, port, address, (fault) => {
        if (fault) this.#options.log.warn({ to: address, message: fault.message }, 'radiusFault');
        sent();
      });
    });
  }

  #drop({ address, port }: RemoteInfo, client: RadiusClient | undefined, drop: Drop & { message?: string }): void {
    const leftOut = this.#drops.count(client?.name, drop.drop, this.#nowMs());
    if (leftOut === undefined) return;
    const { drop: reason, ...details } = drop;
    const fields = { reason, why: DROPS[reason], ...(client && { client: client.name }), source: address, port };
    this.#options.log.warn({ ...fields, ...details, ...(leftOut > 0 && { leftOut }) }, 'radiusDropped');
  }

  #nowMs(): number {
    return monotonicMs(this.#options.clock);
  }
}

const UNKNOWN_CLIENT: Drop = { drop: 'unknownClient' };

interface Arrived {
  readonly socket: Socket;
  /** The socket's own address, as text. */
  readonly where: string;
  readonly datagram: Buffer;
  readonly remote: RemoteInfo;
}

interface Taken {
  readonly socket: Socket;
  readonly remote: RemoteInfo;
  readonly client: RadiusClient;
  readonly request: Request;
  readonly exchange: Exchange;
}
