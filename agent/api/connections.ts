/**
 * Who is connected to the API: from the first sight of an address, through
 * handshake and requests, to the end.
 *
 * Whose handshake is over and who is nobody is turned away at once.
 *
 * What Node's server does not keep: places and handshakes for each party
 * (places.ts), looked at before anything is spent on TLS; one request of a
 * connection after the other, a bound to how many wait there, and to how long
 * an answer takes to leave; and which handshakes still count. A reload of certificates, CAs or
 * CRLs cuts there and then whatever would not pass any more, and whatever is
 * still in its handshake; a stop lets what is being answered come to its end.
 *
 * In one turn of the loop few things are begun, handshakes or requests, one
 * party's after the other's: what else is to be done, and heard, does not wait
 * for a crowd. Also, libuv accepts one connection a turn: long turns would keep
 * those waiting who knock.
 *
 * The TLS socket is not the TCP socket, and Node links the two nowhere public;
 * they share both ends' addresses and ports, which is what they are found by.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { ShedReason } from '../core/handshakes.ts';
import { parseAddress } from '../core/net.ts';
import type { ApiLimits } from './limits.ts';
import type { Place, Places } from './places.ts';
import { Turns } from './turns.ts';

/** A request that has no whole answer yet. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Since when its answer is made, and not yet gone. */
  answeredMs?: number;
  /** What is to be done when it is over, however it ends. */
  over?: () => void;
}

interface Connection {
  readonly raw: Socket;
  readonly remote: string;
  readonly ends: string;
  readonly place: Place;
  readonly sinceMs: number;
  readonly open: Set<Exchange>;
  /** The first of them is at work; how the others begin. */
  readonly later: (() => void)[];
  /** Once its handshake is over. */
  secure?: TLSSocket;
  retired: boolean;
  /** It is ended as soon as what was written has left. */
  ending?: boolean;
}

export class Connections {
  readonly #byEnds = new Map<string, Connection>();
  readonly #secure = new WeakMap<Socket, Connection>();
  readonly #limits: ApiLimits;
  readonly #places: Places;
  readonly #nowMs: () => number;
  readonly #shed: (reason: ShedReason, remote: string) => void;
  readonly #isKnown: (socket: TLSSocket) => boolean;
  /** Who may begin something in this turn of the loop. */
  readonly #beginnings: Turns;
  /** In this turn of the loop. */
  #begun = 0;

  constructor(
    server: Server,
    limits: ApiLimits,
    places: Places,
    nowMs: () => number,
    shed: (reason: ShedReason, remote: string) => void,
    isKnown: (socket: TLSSocket) => boolean,
  ) {
    this.#limits = limits;
    this.#places = places;
    this.#nowMs = nowMs;
    this.#shed = shed;
    this.#isKnown = isKnown;
    this.#beginnings = new Turns(limits.begunAtOnce);
    // What is shed shall not have cost a TLS socket, nor what is not answered a way through the routes.
    putBefore(server, 'connection', (goOn, raw: Socket) => this.#accept(raw, goOn));
    putBefore(server, 'request', (goOn, request: IncomingMessage, response: ServerResponse) =>
      this.#open(request, response, goOn),
    );
    server.on('secureConnection', (socket: TLSSocket) => this.#settle(socket));
  }

  /** Whether its handshake is over and still counts. */
  current(socket: Socket): boolean {
    return this.#secure.get(socket)?.retired === false;
  }

  /** Has something done when a request is over: its answer has left, or its connection is gone. */
  whenOver(request: IncomingMessage, over: () => void): void {
    for (const exchange of this.#secure.get(request.socket)?.open ?? [])
      if (exchange.request === request) exchange.over = over;
  }

  /**
   * Whether something written to the socket now would be read as an answer to
   * what has just failed to arrive: nothing is open, or that alone.
   */
  answerable(socket: Socket): boolean {
    const open = [...(this.#secure.get(socket)?.open ?? [])];
    return open.length <= 1 && open.every(({ request, response }) => !request.complete && !response.headersSent);
  }

  /** Cuts a connection on which requests came while Node had paused it for answers that were not read. */
  cutUnread(socket: Socket): void {
    const connection = this.#secure.get(socket);
    if (connection) this.#cut(connection, 'pipelined');
  }

  /** Cuts whoever has not read an answer in its time, and strangers that have been here for theirs. */
  sweep(): void {
    const nowMs = this.#nowMs();
    const { answerMs, connections } = this.#limits;
    for (const connection of this.#byEnds.values()) {
      const { place, sinceMs, open } = connection;
      if (place.stranger && nowMs - sinceMs > connections.strangerMs) this.#cut(connection, 'strangerTime');
      for (const exchange of open) {
        if (!exchange.response.writableEnded) continue;
        exchange.answeredMs ??= nowMs;
        if (nowMs - exchange.answeredMs > answerMs) this.#cut(connection, 'answerUnread');
      }
    }
  }

  /** Cuts every connection that does not pass, an answer under way or not, and those still in their handshake. */
  sift(passes: (socket: TLSSocket) => boolean): { readonly kept: number; readonly cut: number } {
    const all = [...this.#byEnds.values()];
    const failing = all.filter(({ secure }) => !secure || !passes(secure));
    for (const connection of failing) {
      connection.retired = true;
      connection.raw.destroy();
    }
    return { kept: all.length - failing.length, cut: failing.length };
  }

  /** Ends every connection: now where nothing is being answered, else with the answer. */
  retire(): void {
    for (const connection of this.#byEnds.values()) {
      connection.retired = true;
      if (connection.open.size === 0) connection.raw.destroy();
    }
  }

  /** Cuts every connection. */
  cut(): void {
    for (const { raw } of this.#byEnds.values()) raw.destroy();
  }

  #accept(raw: Socket, begin: () => void): void {
    const remote = raw.remoteAddress ?? '';
    const from = parseAddress(remote);
    if (!from) return void raw.destroy(); // gone again already
    const place = this.#places.enter(from, () => this.#cut(connection, 'overtaken'));
    if (typeof place === 'string') {
      this.#shed(place, remote);
      // A reset leaves nothing behind in the kernel, where an orderly end would wait for the peer's.
      return void raw.resetAndDestroy();
    }
    const sinceMs = this.#nowMs();
    const seen = { raw, remote, ends: endsOf(raw), place, sinceMs };
    const connection: Connection = { ...seen, open: new Set(), later: [], retired: false };
    this.#byEnds.set(connection.ends, connection);
    raw.on('error', () => {}); // before it has a TLS socket that would listen, too
    raw.once('close', () => {
      // A new connection may have the same ends already.
      if (this.#byEnds.get(connection.ends) === connection) this.#byEnds.delete(connection.ends);
      place.leave();
      connection.retired = true;
      // Node tells of the end of that answer alone that was being written.
      for (const exchange of connection.open) this.#close(connection, exchange);
    });
    this.#begin(connection, begin);
  }

  /** Begins something of a connection in its party's turn, if it is still there then. */
  #begin({ raw, place }: Connection, begin: () => void): void {
    const inTurn = () => {
      if (this.#begun === 0) setImmediate(() => this.#nextTurn());
      this.#begun += 1;
      if (!raw.destroyed) begin();
    };
    const turn = this.#beginnings.take(place.party, 0);
    if (turn === true) inTurn();
    else void turn.then(inTurn);
  }

  /** What was begun in the last turn of the loop makes room for as much in this one. */
  #nextTurn(): void {
    const begun = this.#begun;
    this.#begun = 0;
    for (let i = 0; i < begun; i++) this.#beginnings.done();
  }

  #settle(socket: TLSSocket): void {
    const connection = this.#byEnds.get(endsOf(socket));
    if (!connection) return;
    connection.secure = socket;
    this.#secure.set(socket, connection);
    if (this.#isKnown(socket)) connection.place.settle(socket.isSessionReused());
    else this.turnAway(socket);
  }

  /** Cuts the connection of a peer that is nobody, without a word: one whose handshake is just over sees no more than TLS. */
  turnAway(socket: Socket): void {
    const connection = this.#secure.get(socket);
    if (connection) this.#leave(connection);
    else setImmediate(() => socket.destroy());
  }

  /**
   * Requests of one connection begin one after the other (RFC 9112 9.3.2 asks
   * for the order of the answers alone): whoever sends many at once is heard no
   * more often than who waits for each answer.
   */
  #open(request: IncomingMessage, response: ServerResponse, begin: () => void): void {
    const { socket } = request;
    const connection = this.#secure.get(socket);
    if (!connection || connection.retired) {
      setImmediate(() => socket.destroy());
      return;
    }
    const exchange = { request, response };
    connection.open.add(exchange);
    response.once('close', () => this.#close(connection, exchange));
    if (connection.open.size === 1) this.#begin(connection, begin);
    else if (connection.open.size <= this.#limits.requests.pipelined) connection.later.push(begin);
    else {
      socket.pause();
      this.#cut(connection, 'pipelined');
    }
  }

  /**
   * Its place is free when this returns. It ends a little later: a socket that
   * is destroyed while its requests are being parsed takes the parser away from
   * under Node's hands, and the process with it.
   */
  #cut(connection: Connection, reason: ShedReason): void {
    if (!connection.retired) this.#shed(reason, connection.remote);
    this.#leave(connection);
  }

  #leave(connection: Connection): void {
    connection.retired = true;
    connection.place.leave();
    setImmediate(() => connection.raw.destroy());
  }

  #close(connection: Connection, exchange: Exchange): void {
    if (!connection.open.delete(exchange)) return;
    exchange.over?.();
    const next = connection.later.shift();
    if (!connection.retired) {
      if (next) this.#begin(connection, next);
    } else if (!connection.ending) {
      connection.ending = true; // once, however many were open
      connection.secure?.destroySoon();
    }
  }
}

/** Both ends: on a wildcard address one peer may reach two of ours from the same port. */
function endsOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}

/** Puts a listener in the place of those that are there; it lets them go on, or does not. */
function putBefore<Told extends unknown[]>(
  server: Server,
  event: string,
  listener: (goOn: () => void, ...told: Told) => void,
): void {
  const later = server.listeners(event);
  server.removeAllListeners(event);
  server.on(event, (...told: unknown[]) =>
    listener(
      () => {
        for (const one of later) one.call(server, ...told);
      },
      ...(told as Told),
    ),
  );
}
