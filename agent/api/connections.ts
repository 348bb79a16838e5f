/**
 * Who is connected to the API, and how many may be.
 *
 * Two things Node's server does not keep: a cap for each remote address, so
 * that one peer cannot take all places (the cap for all is the server's own),
 * and which handshakes still count. A reload of certificates, CAs or CRLs cuts
 * there and then whatever would not pass any more, and whatever is still in
 * its handshake; a stop lets what is being answered come to its end.
 *
 * The TLS socket is not the TCP socket, and Node links the two nowhere public;
 * they share both ends' addresses and ports, which is what they are found by.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

interface Connection {
  readonly raw: Socket;
  readonly ends: string;
  /** Requests that have no whole answer yet. */
  readonly open: Set<{ readonly request: IncomingMessage; readonly response: ServerResponse }>;
  /** Once its handshake is over. */
  secure?: TLSSocket;
  retired: boolean;
}

export class Connections {
  readonly #byEnds = new Map<string, Connection>();
  readonly #perAddress = new Map<string, number>();
  readonly #secure = new WeakMap<Socket, Connection>();
  readonly #capPerAddress: number;
  readonly #overCap: (remote: string) => void;

  constructor(server: Server, capPerAddress: number, overCap: (remote: string) => void) {
    this.#capPerAddress = capPerAddress;
    this.#overCap = overCap;
    server.on('connection', (raw: Socket) => this.#accept(raw));
    server.on('secureConnection', (socket: TLSSocket) => {
      const connection = this.#byEnds.get(endsOf(socket));
      if (!connection) return;
      connection.secure = socket;
      this.#secure.set(socket, connection);
    });
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      const connection = this.#secure.get(request.socket);
      if (!connection) return;
      const exchange = { request, response };
      connection.open.add(exchange);
      response.once('close', () => {
        connection.open.delete(exchange);
        if (connection.retired && connection.open.size === 0) request.socket.destroySoon();
      });
    });
  }

  /** Whether its handshake is over and still counts. */
  current(socket: Socket): boolean {
    return this.#secure.get(socket)?.retired === false;
  }

  /**
   * Whether something written to the socket now would be read as an answer to
   * what has just failed to arrive: nothing is open, or that alone.
   */
  answerable(socket: Socket): boolean {
    const open = [...(this.#secure.get(socket)?.open ?? [])];
    return open.length <= 1 && open.every(({ request, response }) => !request.complete && !response.headersSent);
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

  #accept(raw: Socket): void {
    const remote = raw.remoteAddress ?? '';
    const count = this.#perAddress.get(remote) ?? 0;
    if (count >= this.#capPerAddress) {
      this.#overCap(remote);
      raw.destroy();
      return;
    }
    const connection: Connection = { raw, ends: endsOf(raw), open: new Set(), retired: false };
    this.#perAddress.set(remote, count + 1);
    this.#byEnds.set(connection.ends, connection);
    raw.once('close', () => {
      // A new connection may have the same ends already.
      if (this.#byEnds.get(connection.ends) === connection) this.#byEnds.delete(connection.ends);
      const left = (this.#perAddress.get(remote) ?? 1) - 1;
      if (left > 0) this.#perAddress.set(remote, left);
      else this.#perAddress.delete(remote);
    });
  }
}

/** Both ends: on a wildcard address one peer may reach two of ours from the same port. */
function endsOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}
