/**
 * Packets of one grant on all CPUs at once, by as many queues: what it has
 * carried, its quota and its rate are one account, and exact; the counters of
 * the CPUs add up to what was sent. At XDP and at TC.
 */
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { Generator } from '../bench/generator.ts';
import { within } from '../enter.ts';
import type { Network } from '../network.ts';
import { switchNapiOn, withQueues } from '../offloads.ts';
import { DEVICE, INSIDE, OUTSIDE, SERVER, standardNetwork, UPLINK, UPSTREAM } from '../standard-network.ts';
import { gateOnWires, HOUR, MAPPING, POOL } from './gate-stand.ts';

const CPUS = availableParallelism();
/** IPv4, UDP, 18 bytes, behind an Ethernet header. */
const FRAME = 60;
const SECONDS = 1;

describe.each(['tc', 'xdp'] as const)('at %s', (where) => {
  let network: Network;
  let gate: Gate;
  let generators: Generator[];
  let number = MAPPING.number;

  beforeAll(async () => {
    network = standardNetwork();
    within(network, 'gateway', () => {
      switchNapiOn(OUTSIDE);
      withQueues(OUTSIDE, CPUS);
    });
    within(network, 'wan', () => withQueues(UPLINK, CPUS));
    within(network, 'device', () => switchNapiOn(UPLINK));
    await network.run('gateway', ['sh', '-ec', neighbours()]);
    // What arrives is not to be answered: only how much goes in is asked here.
    await network.run('device', ['ip', 'address', 'flush', 'dev', UPLINK]);
    gate = gateOnWires(network, POOL, where);
    const external = { address: MAPPING.external.address, port: MAPPING.external.port };
    generators = await Promise.all(
      Array.from({ length: CPUS }, (_, cpu) => Generator.start(network, 'wan', cpu, [external])),
    );
  });
  afterAll(async () => {
    gate?.close();
    await network.close();
  });

  function neighbours(): string {
    return [
      `ip neighbour replace ${UPSTREAM.ipv4} lladdr ${network.link('wan', UPLINK).mac} dev ${OUTSIDE} nud permanent`,
      `ip neighbour replace ${DEVICE.ipv4} lladdr ${network.link('device', UPLINK).mac} dev ${INSIDE} nud permanent`,
    ].join('\n');
  }

  /** Sends from all CPUs at once to a grant with these limits; returns how many were sent, and what it carried. */
  async function flood(limits: typeof MAPPING.limits) {
    if (number > MAPPING.number) gate.end(MAPPING.index, number, 1n);
    number += 1;
    gate.open({ ...MAPPING, number, protocol: 'udp', limits, index: 16 }, process.hrtime.bigint() + HOUR);
    gate.heartbeat(process.hrtime.bigint());
    const before = gate.counters();
    const order = {
      ...{ ifindex: network.link('wan', UPLINK).ifindex, from: network.link('wan', UPLINK).mac },
      ...{ to: network.link('gateway', OUTSIDE).mac, peer: { address: SERVER.ipv4, port: 40_000 } },
      ...{ first: 0, count: 1, seconds: SECONDS },
    };
    const began = performance.now();
    const sent = await Promise.all(generators.map((one) => one.burst(order)));
    const seconds = (performance.now() - began) / 1_000;
    await delay(100); // what is still queued
    const after = gate.counters();
    const { in: carried } = gate.carried(16);
    gate.end(16, number, 1n);
    const since = (what: 'packetRateExceeded' | 'byteQuotaExceeded') =>
      Number(after.denied[what].packets - before.denied[what].packets);
    return {
      sent: sent.reduce((sum, { packets }) => sum + packets, 0),
      carried: { packets: Number(carried.packets), bytes: Number(carried.bytes) },
      counted: Number(after.grantedIn.packets - before.grantedIn.packets),
      refused: since('packetRateExceeded') + since('byteQuotaExceeded'),
      atXdp: Number(after.atXdp.packets - before.atXdp.packets),
      seconds,
    };
  }

  test('what a grant carried is what the CPUs counted', async () => {
    const { sent, carried, counted, atXdp } = await flood({});
    expect(counted).toBeGreaterThan(10_000);
    expect(carried).toEqual({ packets: counted, bytes: counted * FRAME });
    expect(counted).toBeLessThanOrEqual(sent); // a full queue loses some, before the gate
    if (where === 'xdp') expect(atXdp).toBeGreaterThan(counted / 2);
  });

  test('no two CPUs both have the last of a quota', async () => {
    const packets = 5_000;
    const { carried, counted, refused } = await flood({ bytes: packets * FRAME + FRAME / 2 });
    expect({ carried, counted }).toEqual({ carried: { packets, bytes: packets * FRAME }, counted: packets });
    expect(refused).toBeGreaterThan(packets);
  });

  test('a rate is that of all CPUs together', async () => {
    const packetsPerSecond = 2_000;
    const { carried, refused, seconds } = await flood({ packetsPerSecond });
    // A bucket of one second's worth, full at the beginning, and what came since.
    expect(carried.packets).toBeGreaterThan(packetsPerSecond);
    expect(carried.packets).toBeLessThan(packetsPerSecond * (1 + seconds + 0.05));
    expect(refused).toBeGreaterThan(packetsPerSecond);
  });
});
