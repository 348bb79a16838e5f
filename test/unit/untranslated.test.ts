/** Grants that are not translated: of a server, or in a realm, with `nat: none`. */
import { describe, expect, test } from 'vitest';
import { address, formatEndpoint } from '../../agent/core/net.ts';
import { ipv4Entries } from '../../agent/core/pool.ts';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { Asker } from '../../agent/core/words.ts';
import { isTranslated } from '../../agent/dataplane/dataplane.ts';
import { forecast } from '../../agent/editions/forecast.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, OTHER, policyOf, RULES, TestGateway } from '../gateway.ts';

const BOTH = RULES.replace('authorises: [head-end]', 'authorises: [head-end, other]').replace(
  'servers: [head-end]',
  'servers: [head-end, other]',
);
/** The servers' rules, those named with nat: none. */
const rulesWith = (...servers: readonly string[]) =>
  servers.reduce(
    (text, name) => text.replace(`  ${name}: { certificates`, `  ${name}: { nat: none, certificates`),
    BOTH,
  );
const OWN = '10.20.0.2:5683';
const OWN_IPV6 = '[fd00:20::2]:5683';

async function granted(gateway: TestGateway, who: Asker = HEAD_END, changes = {}): Promise<GrantRecord> {
  const record = await gateway.grants.request(who, ask(changes));
  if ('reason' in record) throw new Error(`${record.reason}: ${JSON.stringify(record)}`);
  return record;
}

const reasonOf = (answer: GrantRecord | Refusal) => ('reason' in answer ? answer.reason : 'granted');
const endpointOf = ({ external }: GrantRecord) => formatEndpoint(external);
const isOpen = (gateway: TestGateway, { index, number }: GrantRecord) => {
  const state = gateway.memory.state(index);
  return state?.number === number && state.endNs > gateway.clock.monotonicNs();
};
const causeOf = (gateway: TestGateway, { id }: GrantRecord) => gateway.grants.find(id)?.endCause;
const keyed = (gateway: TestGateway) => gateway.grants.endpoints.available('ipv6', 'udp');

describe('a server with nat: none', () => {
  test("has the device's own endpoint, at an index behind the pool's; others' grants are translated as ever", async () => {
    const gateway = await TestGateway.started(rulesWith('head-end'));
    const own = await granted(gateway);
    const foreign = await granted(gateway, OTHER);
    expect(endpointOf(own)).toBe(OWN);
    expect(endpointOf(foreign)).toMatch(/^203\.0\.113\./);
    expect(own.index).toBeGreaterThanOrEqual(ipv4Entries(gateway.ground.pool));
    expect(foreign.index).toBeLessThan(ipv4Entries(gateway.ground.pool));
    const mappings = [own, foreign].map(({ index }) => gateway.memory.entry(index)?.mapping);
    expect(mappings.map((mapping) => mapping && isTranslated(mapping))).toEqual([false, true]);
    expect(isOpen(gateway, own)).toBe(true);
    const ipv6 = await granted(gateway, HEAD_END, { ipFamily: 'ipv6', applicationServer: { address: 'all' } });
    expect(endpointOf(ipv6)).toBe(OWN_IPV6);
  });

  test('has one at a time for an endpoint, and another server one of its own beside it', async () => {
    const gateway = await TestGateway.started(rulesWith('head-end', 'other'));
    const first = await granted(gateway);
    expect(reasonOf(await gateway.grants.request(HEAD_END, ask()))).toBe('alreadyExists');
    const second = await granted(gateway, OTHER);
    expect([first, second].map(endpointOf)).toEqual([OWN, OWN]);
    expect(second.index).not.toBe(first.index);
    await gateway.grants.end(first, 'endedByServer');
    expect([isOpen(gateway, first), isOpen(gateway, second)]).toEqual([false, true]);
  });

  test('its places rest as others do, and when none is left that is said, with when to ask again', async () => {
    const gateway = await TestGateway.started(rulesWith('head-end'));
    const all = keyed(gateway);
    const first = await granted(gateway);
    await gateway.grants.end(first, 'endedByServer');
    await granted(gateway); // the endpoint itself does not rest: it is the device's, whoever is granted
    expect(keyed(gateway)).toBe(all - 2);
    while (gateway.grants.endpoints.allocateOwn({ address: address('10.20.0.9'), port: 1 })) {}
    const full = await gateway.grants.request(HEAD_END, ask({ devicePort: 7001 }));
    expect(full).toMatchObject({ reason: 'endpointsExhausted', retryAfterSeconds: 120 });
    gateway.clock.pass(119);
    await gateway.grants.sweep();
    expect(keyed(gateway)).toBe(0);
    gateway.clock.pass(1);
    await gateway.grants.sweep();
    expect(keyed(gateway)).toBe(1);
    expect(gateway.memory.entry(first.index)).toBeUndefined();
  });

  test('a grant of its lives longer, and ends with the address it leads to', async () => {
    const unbound = DEVICES.map(({ device }) => ({ device, bindings: [] }));
    const gateway = await TestGateway.started(rulesWith('head-end'), unbound);
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const record = await granted(gateway);
    gateway.clock.pass(60);
    expect(await gateway.extensions.extend(HEAD_END, record.id, 600)).toMatchObject({ external: record.external });
    await gateway.bindings.bind(M2, inner('10.20.0.2'));
    expect(isOpen(gateway, record)).toBe(false);
    expect(causeOf(gateway, record)).toBe('addressReassigned');
  });

  test('each is known by its number where both use up their bytes', async () => {
    const limited = rulesWith('head-end', 'other').replace('grantsPerDevice: 3', 'bytes: 1000');
    const gateway = await TestGateway.started(limited);
    const records = [await granted(gateway), await granted(gateway, OTHER)];
    for (const record of [...records].reverse()) {
      gateway.memory.usedUp = () => [{ index: record.index, number: record.number }];
      await gateway.grants.sweep();
      expect(causeOf(gateway, record)).toBe('quotaUsed');
    }
  });

  test('a packet to the endpoint is put down to the grant of the server that it comes from', async () => {
    const gateway = await TestGateway.started(rulesWith('head-end', 'other'));
    const [first, second] = [await granted(gateway), await granted(gateway, OTHER)];
    const from = (text: string) => gateway.grants.ownerOf('udp', first.external, address(text))?.grant;
    expect([from('198.51.100.99'), from('192.0.2.70')]).toEqual([first.id, second.id]);
    expect([from('203.0.113.99'), gateway.grants.ownerOf('udp', first.external)]).toEqual([undefined, undefined]);
    await gateway.grants.end(first, 'endedByServer');
    expect(from('198.51.100.99')).toBeUndefined(); // the address says whose it is
  });
});

describe('a realm with nat: none', () => {
  test('has no grant that is translated', async () => {
    const gateway = new TestGateway();
    gateway.nat = { nat: 'none', shared: false };
    await gateway.start(BOTH);
    expect(endpointOf(await granted(gateway))).toBe(OWN);
    expect(endpointOf(await granted(gateway, OTHER, { protocol: 'tcp' }))).toBe(OWN);
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(4 * 16);
  });

  test('a request that waits gets the endpoint of the address that its device has then', async () => {
    const gateway = new TestGateway();
    gateway.nat = { nat: 'none', shared: false };
    await gateway.start(BOTH);
    const device = { networkAccessIdentifier: M2 };
    const waiting = await gateway.grants.requestOrWait(HEAD_END, ask({ device }), 600);
    await gateway.bindings.bind(M2, inner('10.20.0.77'));
    const record = gateway.grants.find((waiting as GrantRecord).id);
    expect(record && endpointOf(record)).toBe('10.20.0.77:5683');
  });
});

test('where realms share addresses nothing is granted without translation', async () => {
  const gateway = new TestGateway();
  gateway.nat = { shared: true };
  await gateway.start(rulesWith('head-end'));
  expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'addressesShared' });
  expect(reasonOf(await gateway.grants.request(OTHER, ask()))).toBe('granted');
  expect(gateway.log.of('refused').at(-1)).toMatchObject({
    why: 'server head-end has nat: none, but realm iot shares addresses with another',
  });
});

describe('when nat changes', () => {
  test('the grants end whose endpoint is another one now, and no others; it is told beforehand', async () => {
    const gateway = await TestGateway.started(BOTH);
    const [before, stays] = [await granted(gateway), await granted(gateway, OTHER)];
    const policy = policyOf(rulesWith('head-end'));
    const past = { grants: () => [], refusals: () => [] };
    const { ends } = await forecast(policy, gateway.grants, past, gateway.clock);
    expect(ends).toMatchObject({ count: 1, groups: [{ reason: 'natChanged', count: 1 }], grantIds: [before.id] });
    await gateway.grants.switchPolicy(policy);
    expect([causeOf(gateway, before), causeOf(gateway, stays)]).toEqual(['natChanged', undefined]);
    expect(isOpen(gateway, before)).toBe(false);
    const own = await granted(gateway);
    expect(endpointOf(own)).toBe(OWN);
    await gateway.grants.switchPolicy(policyOf(BOTH));
    expect(causeOf(gateway, own)).toBe('natChanged');
    expect(endpointOf(await granted(gateway))).toMatch(/^203\.0\.113\./);
  });

  test('while a grant is recorded it is not opened', async () => {
    const gateway = await TestGateway.started(BOTH);
    const asked = gateway.grants.request(HEAD_END, ask());
    const switched = gateway.grants.switchPolicy(policyOf(rulesWith('head-end')));
    expect(reasonOf(await asked)).toBe('changedWhileDeciding');
    await switched;
    expect(gateway.grants.live.size).toBe(0);
  });

  test('in agent.yaml, the start ends what had the other endpoint', async () => {
    const gateway = new TestGateway();
    gateway.nat = { nat: 'none', shared: false };
    await gateway.start(BOTH);
    const record = await granted(gateway);
    gateway.nat = { shared: false };
    await gateway.start(BOTH);
    expect(causeOf(gateway, record)).toBe('natChanged');
    expect(isOpen(gateway, record)).toBe(false);
  });
});

describe('over a start', () => {
  const rules = rulesWith('head-end', 'other');

  test('in the same boot they go on, and their places are not given again', async () => {
    const gateway = await TestGateway.started(rules);
    const records = [
      await granted(gateway),
      await granted(gateway, OTHER),
      await granted(gateway, HEAD_END, { ipFamily: 'ipv6', applicationServer: { address: 'all' } }),
    ];
    const ended = await granted(gateway, HEAD_END, { protocol: 'tcp' });
    await gateway.grants.end(ended, 'endedByServer');
    const free = keyed(gateway);
    await gateway.start(rules);
    expect(records.map((record) => isOpen(gateway, record))).toEqual([true, true, true]);
    expect([keyed(gateway), gateway.grants.rest.size]).toEqual([free, 1]);
    gateway.clock.pass(120);
    await gateway.grants.sweep();
    expect(keyed(gateway)).toBe(free + 1);
  });

  test('after a reboot they are opened anew, on the same endpoints', async () => {
    const gateway = await TestGateway.started(rules);
    const records = [await granted(gateway), await granted(gateway, OTHER)];
    gateway.reboot();
    await gateway.start(rules);
    const mappings = records.map(({ index }) => gateway.memory.entry(index)?.mapping);
    expect(mappings.map((one) => one && formatEndpoint(one.external))).toEqual([OWN, OWN]);
    expect(records.map((record) => isOpen(gateway, record))).toEqual([true, true]);
  });

  test('an entry that no record explains is ended, and its place rests', async () => {
    const gateway = await TestGateway.started(rules);
    const index = ipv4Entries(gateway.ground.pool) + 5;
    const device = { address: address('10.20.0.2'), port: 7000 };
    const stray = { index, number: 77, protocol: 'udp', realm: 1, device, external: device } as const;
    const endNs = gateway.clock.monotonicNs() + 60_000_000_000n;
    gateway.memory.open({ ...stray, remote: 'all', remotePort: 0, classId: 1, limits: {} }, endNs);
    const free = keyed(gateway);
    await gateway.start(rules);
    expect(gateway.memory.state(index)?.endNs).toBeLessThan(gateway.clock.monotonicNs());
    expect([keyed(gateway), gateway.grants.rest.size]).toEqual([free - 1, 1]);
  });
});
