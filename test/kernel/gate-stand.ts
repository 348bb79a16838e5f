/**
 * The gate as it was built, and where suites load it again and again: a
 * namespace with the interfaces it is loaded for, which the test's thread
 * stays in, and fresh maps each time. A gate then costs a few milliseconds;
 * one on interfaces of its own a third of a second.
 */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { address, hostPrefix, prefix } from '../../agent/core/net.ts';
import type { Pool } from '../../agent/core/pool.ts';
import type { GateSetup, Mapping } from '../../agent/dataplane/dataplane.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { ROOT } from '../child.ts';
import { enter, within } from '../enter.ts';
import { Network } from '../network.ts';
import { DEVICE, INNER_GATEWAY, INSIDE, OUTSIDE, REALM_PREFIX, SERVER_PREFIX, UPSTREAM } from '../standard-network.ts';
import { IDENTIFICATION_KEY, type MakeRig, NORMALISE } from '../suites/fixture.ts';

export const GATE_OBJECT = `${ROOT}dist/dataplane/gate.bpf.o`;

/** A small pool, and a grant in it, for tests that need one of each and no more. */
export const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30')],
  ipv6: [],
  portLow: 40_000,
  portCount: 16,
  keyedGrants: 0,
};
export const MAPPING: Mapping = {
  index: 0,
  number: 9,
  protocol: 'tcp',
  realm: 1,
  device: { address: address('10.20.0.2'), port: 80 },
  external: { address: address('203.0.113.0'), port: 40_000 },
  remote: 'all',
  remotePort: 0,
  classId: 7,
  limits: {},
};
export const HOUR = 3600n * 1_000_000_000n;

/** To be closed behind the test file. */
export interface Stand {
  readonly make: MakeRig;
  close(): Promise<void>;
}

/** The gate at the gateway of the standard network, with the servers as class 7, the device bound, heard until orphanGraceSeconds from now. */
export function gateOnWires(network: Network, pool: Pool): Gate {
  const at = (name: string) => ({ name, ifindex: network.link('gateway', name).ifindex });
  const [outside, inside] = [at(OUTSIDE), at(INSIDE)];
  const families = ['ipv4', 'ipv6'] as const;
  const gate = within(network, 'gateway', () => {
    const setup: GateSetup = {
      pool,
      outside: { ifindex: outside.ifindex, nextHops: { ipv4: address(UPSTREAM.ipv4), ipv6: address(UPSTREAM.ipv6) } },
      inside: [
        {
          ifindex: inside.ifindex,
          realm: 1,
          prefixes: families.map((family) => prefix(REALM_PREFIX[family])),
          nextHops: { ipv4: address(DEVICE.ipv4), ipv6: address(DEVICE.ipv6) },
          translated: true,
        },
      ],
      own: families.map((family) => ({ address: address(INNER_GATEWAY[family]), on: 'inside' as const })),
      services: [],
      orphanGraceSeconds: 300,
      udpTombstoneSeconds: 30,
      onlyBound: true,
      normalise: NORMALISE,
      identificationKey: IDENTIFICATION_KEY,
    };
    const loaded = Gate.load({ object: GATE_OBJECT, bpffs: `${network.bpffs()}/mtgate`, setup });
    loaded.attach('auto', { outside, inside: [inside] });
    return loaded;
  });
  for (const family of families) {
    gate.addClass(prefix(SERVER_PREFIX[family]), 7);
    gate.bind(1, hostPrefix(address(DEVICE[family])));
  }
  gate.heartbeat(process.hrtime.bigint());
  return gate;
}

export function gateStand(): Stand {
  const end = (name: string) => ({ namespace: 'gateway', interface: name, addresses: [] });
  const network = Network.create({
    namespaces: { gateway: {} },
    links: [
      [end('outside'), end('inside')],
      [end('inside2'), end('other')],
    ],
  });
  const number = (name: string) => network.link('gateway', name).ifindex;
  const interfaces = {
    outside: number('outside'),
    inside: number('inside'),
    secondInside: number('inside2'),
    other: number('other'),
  };
  const bpffs = network.bpffs();
  const leave = enter(network.name('gateway'));
  return {
    make: (setupOf) => {
      const gate = Gate.load({
        object: GATE_OBJECT,
        bpffs: mkdtempSync(join(bpffs, 'gate-')),
        setup: setupOf(interfaces),
      });
      return { plane: gate, interfaces, close: () => gate.close() };
    },
    close: async () => {
      leave();
      await network.close();
    },
  };
}
