/**
 * What agent.yaml means on this host: its interfaces, what the gate is built
 * on, what the base is written from.
 */
import type { Config } from './config.ts';
import { AgentError } from './core/errors.ts';
import type { GateSetup } from './dataplane/dataplane.ts';
import type { Link } from './dataplane/iproute.ts';
import type { BaseSetup } from './policy/ruleset.ts';

/** The interfaces that agent.yaml names, outside and of each realm. */
export interface Interfaces {
  readonly outside: Link;
  readonly inside: readonly Link[];
}

/** @throws AgentError interfaceMissing, interfaceUnsuitable */
export function interfacesOf(config: Config, here: readonly Link[]): Interfaces {
  const find = (name: string): Link => {
    const link = here.find((one) => one.name === name);
    if (!link) throw new AgentError('interfaceMissing', `there is no interface ${name}`);
    if (link.kind !== 'ether') {
      throw new AgentError('interfaceUnsuitable', `${name} has no Ethernet header (its kind is ${link.kind})`);
    }
    return link;
  };
  return { outside: find(config.outside.interface), inside: config.inside.map((realm) => find(realm.interface)) };
}

/** What the gate is built on. */
export function gateSetup(
  config: Config,
  { outside, inside }: Interfaces,
  here: readonly Link[],
  realmId: (name: string) => number,
): GateSetup {
  const owned = here.flatMap((link) =>
    link.addresses.map((address) => ({
      address,
      on: inside.some(({ ifindex }) => ifindex === link.ifindex) ? ('inside' as const) : ('elsewhere' as const),
    })),
  );
  return {
    pool: config.pools.grants,
    outside: { ifindex: outside.ifindex, nextHops: config.outside.nextHops },
    inside: config.inside.map(({ realm, prefixes, nextHops }, i) => ({
      ifindex: (inside[i] as Link).ifindex,
      realm: realmId(realm),
      prefixes,
      nextHops,
    })),
    own: owned,
    services: config.services,
    orphanGraceSeconds: config.gate.orphanGraceSeconds,
    udpTombstoneSeconds: config.gate.udpTombstoneSeconds,
  };
}

/** What the base is written from. */
export function baseSetup(config: Config): BaseSetup {
  return {
    outside: config.outside.interface,
    inside: config.inside,
    grants: [...config.pools.grants.ipv4, ...config.pools.grants.ipv6],
    egress: config.pools.egress,
    services: config.services,
    ...config.base,
  };
}
