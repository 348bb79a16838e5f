/**
 * What a standing filter lets in, on wires: the gate lets it through, a base
 * keeps track of it and marks its answers, and only so do they get out.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { prefix } from '../../agent/core/net.ts';
import { ANSWER_MARK } from '../../agent/core/reasons.ts';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { program } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, GATEWAY, INSIDE, OUTSIDE, REALM_PREFIX, ROGUE, standardNetwork } from '../standard-network.ts';
import { gateOnWires, POOL } from './gate-stand.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const PORT = 7000;

let network: Network;
let gate: Gate;
let rogue: Probe;

beforeAll(async () => {
  network = standardNetwork();
  gate = gateOnWires(network, POOL);
  for (const family of FAMILIES)
    await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
  for (const family of FAMILIES)
    network.show(
      { source: DEVICE[family], to: ROGUE[family] },
      'it is let begin flows to the own address, and answered',
    );
  const echo = program('test/device.ts', String(PORT), DEVICE.ipv4, DEVICE.ipv6);
  [, rogue] = await Promise.all([
    network.spawn('device', echo, { line: /^ready$/ }),
    Probe.start(network, 'rogue'),
    network.run('gateway', ['nft', '-f', '-'], { input: BASE }),
  ]);
});
afterAll(async () => {
  gate.close();
  await network.close();
});

/** As the base of a policy with such filters: what they begin, and its answers, marked. */
const BASE = `
table inet filters {
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "${INSIDE}" ct state established,related ct direction reply meta mark set ${ANSWER_MARK} accept
    iifname "${OUTSIDE}" ct state established accept
    iifname "${OUTSIDE}" tcp dport ${PORT} accept
    iifname "${OUTSIDE}" udp dport { ${PORT}, ${PORT + 1} } accept
  }
}
`;

const knock = (family: 'ipv4' | 'ipv6', protocol: 'tcp' | 'udp', port = PORT, waitMs = 1000) =>
  rogue[protocol]({ to: { address: DEVICE[family], port }, text: protocol, waitMs });

test.each(FAMILIES)('over %s', async (family) => {
  expect(await knock(family, 'udp', PORT, 100)).toEqual({ outcome: 'silence' });
  gate.admissions(
    FAMILIES.flatMap((one) =>
      (['tcp', 'udp'] as const).map((protocol) => ({
        source: prefix(`${ROGUE[one]}/${one === 'ipv4' ? 32 : 128}`),
        destination: prefix(REALM_PREFIX[one]),
        protocol,
        ports: { low: PORT, high: PORT + 1 },
      })),
    ),
  );
  expect(await knock(family, 'udp')).toMatchObject({ outcome: 'answer', text: 'udp' });
  expect(await knock(family, 'tcp')).toMatchObject({ outcome: 'answer', text: 'tcp' });
  // The device's ICMP error belongs to the flow, and may quote what the peer knows.
  expect(await knock(family, 'udp', PORT + 1)).toMatchObject({ outcome: 'refused' });
  expect(await knock(family, 'udp', PORT + 2, 100)).toEqual({ outcome: 'silence' });
  const { denied } = gate.counters();
  expect(denied.innerLeak.packets).toBe(0n);

  gate.admissions([]);
  expect(await knock(family, 'udp', PORT, 100)).toEqual({ outcome: 'silence' });
});

test('without a base nothing comes back: a flushed table closes', async () => {
  gate.admissions([
    { source: prefix(`${ROGUE.ipv4}/32`), destination: prefix(REALM_PREFIX.ipv4), protocol: 'udp' as const },
  ]);
  await network.run('gateway', ['nft', 'flush', 'ruleset']);
  expect(await knock('ipv4', 'udp', PORT, 200)).toEqual({ outcome: 'silence' });
  expect(gate.counters().denied.innerLeak.packets).toBe(1n);
});
