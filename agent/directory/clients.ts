/**
 * RADIUS clients by the address a datagram came from. A client is nothing but
 * its addresses and its secret, so no address may be two clients'
 * (agent.yaml is refused then).
 */
import { type Address, contains, isHost, type Prefix, parseAddress } from '../core/net.ts';

export interface RadiusClient {
  /** As agent.yaml calls it. */
  readonly name: string;
  readonly addresses: readonly Prefix[];
  readonly secret: Uint8Array;
}

export class RadiusClients {
  readonly #hosts = new Map<string, RadiusClient>();
  readonly #prefixes: { readonly prefix: Prefix; readonly client: RadiusClient }[] = [];

  constructor(clients: readonly RadiusClient[]) {
    for (const client of clients)
      for (const prefix of client.addresses) {
        if (isHost(prefix)) this.#hosts.set(prefix.address.text, client);
        else this.#prefixes.push({ prefix, client });
      }
  }

  /** Whose address it is. */
  find(source: Address): RadiusClient | undefined {
    return this.#hosts.get(source.text) ?? this.#prefixes.find(({ prefix }) => contains(prefix, source))?.client;
  }
}

/** The source of a datagram as the socket says it, its zone left out; IPv4 in mapped form is IPv4. */
export function sourceOf(said: string): Address | undefined {
  return parseAddress(said.replace(/%.*$/, ''));
}
