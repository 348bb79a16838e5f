/**
 * The gate as it was built, and where suites load it again and again: a
 * namespace with the interfaces it is loaded for, which the test's thread
 * stays in, and fresh maps each time. A gate then costs a few milliseconds;
 * one on interfaces of its own a third of a second.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { address, hostPrefix, prefix } from '../../agent/core/net.ts';
import type { Pool } from '../../agent/core/pool.ts';
import type { GateSetup, JudgingDataplane, Mapping } from '../../agent/dataplane/dataplane.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { ROOT } from '../child.ts';
import { enter, within } from '../enter.ts';
import { Network } from '../network.ts';
import { DEVICE, INNER_GATEWAY, INSIDE, OUTSIDE, REALM_PREFIX, SERVER_PREFIX, UPSTREAM } from '../standard-network.ts';
import { type MakeRig, setupOf, USUAL } from '../suites/fixture.ts';

export const GATE_OBJECT = `${ROOT}dist/dataplane/gate.bpf.o`;

/** A small pool, and a grant in it, for tests that need one of each and no more. */
export const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30')],
  ipv6: [],
  portLow: 40_000,
  portCount: 16,
  keyedGrants: 0,
};
/** One of both families, and an address of each in it. */
export const BOTH_POOL: Pool = {
  ...POOL,
  ipv6: [prefix('2001:db8:a::/64')],
  keyedGrants: 8,
};
export const EXTERNAL = { ipv4: '203.0.113.1', ipv6: '2001:db8:a::77' } as const;
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
  /** How many packets were carried, and denied, at XDP. */
  readonly early: { carried: number; denied: number };
  close(): Promise<void>;
}

/** The gate at the gateway of the standard network, with the servers as class 7, the device bound, heard until orphanGraceSeconds from now. `ways`: out of it, other than by the upstream router. */
export function gateOnWires(
  network: Network,
  pool: Pool,
  where: 'tc' | 'xdp' = 'tc',
  ways: Partial<Pick<GateSetup['outside'], 'nextHops' | 'routedByMore'>> = {},
): Gate {
  const takesFrames = where === 'xdp';
  const at = (name: string) => ({
    ...{ name, ifindex: network.link('gateway', name).ifindex },
    ...(where === 'xdp' && { xdp: 'native' as const }),
  });
  const [outside, inside] = [at(OUTSIDE), at(INSIDE)];
  const families = ['ipv4', 'ipv6'] as const;
  const gate = within(network, 'gateway', () => {
    const setup: GateSetup = {
      pool,
      outside: {
        ifindex: outside.ifindex,
        nextHops: { ipv4: address(UPSTREAM.ipv4), ipv6: address(UPSTREAM.ipv6) },
        takesFrames,
        ...ways,
      },
      inside: [
        {
          ifindex: inside.ifindex,
          realm: 1,
          prefixes: families.map((family) => prefix(REALM_PREFIX[family])),
          nextHops: { ipv4: address(DEVICE.ipv4), ipv6: address(DEVICE.ipv6) },
          takesFrames,
          translated: true,
        },
      ],
      own: families.map((family) => ({ address: address(INNER_GATEWAY[family]), on: 'inside' as const })),
      ...USUAL,
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

/** At XDP, ways to all that packets are carried to: without a neighbour it would hand on each of them. */
const ROUTES = [
  '192.0.2.1 dev outside',
  'default via 192.0.2.1 dev outside onlink',
  'default via fe80::99 dev outside',
  '10.20.0.0/16 via 10.20.255.1 dev inside onlink',
  'fd00:20::9 dev inside',
  'fd00:20::/48 via fe80::99 dev inside',
  '10.30.0.9 dev inside2',
  '10.30.0.0/16 via 10.30.0.9 dev inside2 onlink',
  'fd00:30::/48 via fe80::99 dev inside2',
];
const NEIGHBOURS = [
  '192.0.2.1 dev outside',
  'fe80::99 dev outside',
  '10.20.255.1 dev inside',
  'fd00:20::9 dev inside',
  'fe80::99 dev inside',
  '10.30.0.9 dev inside2',
  'fe80::99 dev inside2',
];
const MACS = 12;

/**
 * `xdp`: the gate is asked as packets meet it where it hangs there, at XDP first, and at TC with what that hands on.
 */
export async function gateStand(where: 'tc' | 'xdp' = 'tc'): Promise<Stand> {
  const early = { carried: 0, denied: 0 };
  const end = (name: string) => ({ namespace: 'gateway', interface: name, addresses: [] });
  const network = Network.create({
    namespaces: { gateway: where === 'xdp' ? { forwards: true, routes: ROUTES } : {} },
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
  if (where === 'xdp') {
    const orders = NEIGHBOURS.map((one) => `ip neighbour add ${one} lladdr 02:00:00:00:00:99 nud permanent`);
    await network.run('gateway', ['sh', '-ec', orders.join('\n')]);
  }
  const bpffs = network.bpffs();
  const leave = enter(network.name('gateway'));
  const load = (setup: GateSetup, folder = mkdtempSync(join(bpffs, 'gate-'))) => ({
    gate: Gate.load({ object: GATE_OBJECT, bpffs: folder, setup }),
    folder,
  });
  let first: Gate | undefined;
  if (where === 'xdp') {
    // The kernel lets a test packet come from an interface only where something hangs at its XDP.
    first = load(setupOf(interfaces)).gate;
    const [outside, ...inside] = (['outside', 'inside', 'inside2', 'other'] as const).map((name) => ({
      ...{ name, ifindex: number(name), xdp: 'native' as const },
    }));
    first.attach('auto', { ...(outside && { outside }), inside });
  }
  return {
    early,
    make: (makeSetup) => {
      const setup = makeSetup(interfaces);
      const takesFrames = where === 'xdp';
      const { gate, folder } = load({
        ...setup,
        outside: { ...setup.outside, takesFrames },
        inside: setup.inside.map((one) => ({ ...one, takesFrames })),
      });
      const close = () => {
        gate.close();
        rmSync(folder, { recursive: true }); // thousands of gates take more memory than there is
      };
      return { plane: where === 'xdp' ? metEarly(gate, early) : gate, interfaces, close };
    },
    close: async () => {
      first?.close();
      leave();
      await network.close();
    },
  };
}

/** A gate that is asked at XDP first. */
function metEarly(gate: Gate, early: Stand['early']): JudgingDataplane {
  const judge: Gate['judge'] = (hook, ifindex, frame, mark, from) => {
    const isIngress = hook === 'outsideIngress' || hook === 'insideIngress';
    if (!isIngress) return gate.judge(hook, ifindex, frame, mark, from);
    const verdict = gate.judgeEarly(hook === 'outsideIngress' ? 'outsideXdp' : 'insideXdp', ifindex, frame);
    if (verdict.verdict === 'pass') return gate.judge(hook, ifindex, frame, mark, from);
    if (verdict.verdict === 'drop') early.denied += 1;
    if (!('bytes' in verdict)) return verdict;
    early.carried += 1;
    // At TC the link layer is written later.
    const bytes = Uint8Array.from(verdict.bytes);
    bytes.set(frame.subarray(0, MACS));
    return { ...verdict, bytes };
  };
  return new Proxy(gate, {
    get: (target, name) => {
      if (name === 'judge') return judge;
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
