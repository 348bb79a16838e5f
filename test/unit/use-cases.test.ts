import { expect, test } from 'vitest';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { ask, HEAD_END, inner, M1, M2, OTHER, RULES, TestGateway } from '../gateway.ts';
import { digest } from '../rules.ts';

async function served(gateway: TestGateway) {
  const useCases = serverUseCases(
    gateway.ground,
    gateway.grants,
    gateway.extensions,
    gateway.events,
    undefined,
    digest,
  );
  const list = (perPage: number, seek?: string, who = HEAD_END) => {
    const found = useCases.list(who, { perPage, ...(seek !== undefined && { seek }) });
    return found === 'seekUnknown' ? found : { ...found, grants: found.grants.map(({ devicePort }) => devicePort) };
  };
  return { useCases, list };
}

test("a server's grants by pages, from key to key; a key is of one start of the agent", async () => {
  const gateway = await TestGateway.started();
  const { useCases, list } = await served(gateway);
  for (const devicePort of [5683, 7000, 7001]) await useCases.request(HEAD_END, ask({ devicePort }));

  const first = list(2);
  expect(first).toEqual({ grants: [5683, 7000], total: 3, lastKey: expect.any(String) });
  const key = first === 'seekUnknown' ? '' : first.lastKey;
  expect(list(2, key)).toEqual({ grants: [7001], total: 3 });
  expect(list(2, key, OTHER)).toEqual({ grants: [], total: 0 });
  for (const wrong of ['', 'nonsense', `x${key}`, `${key}-`]) expect(list(2, wrong)).toBe('seekUnknown');

  await gateway.start();
  const { list: later } = await served(gateway);
  expect(later(2, key)).toBe('seekUnknown');
  expect(later(9)).toEqual({ grants: [5683, 7000, 7001], total: 3 });
});

test('what waits comes first; one that is granted while the list is read is not missed', async () => {
  const rules = RULES.replace('grantsPerDevice: 3', 'grantsPerDevice: 9');
  const gateway = await TestGateway.started(rules);
  const { useCases, list } = await served(gateway);
  const device = { networkAccessIdentifier: M2 };
  for (const devicePort of [5683, 7000]) await useCases.request(HEAD_END, ask({ devicePort }));
  for (const devicePort of [7001, 7002]) await useCases.request(HEAD_END, ask({ device, devicePort }), { seconds: 60 });
  const all = { grants: [7001, 7002, 5683, 7000], total: 4 };
  expect(list(9)).toEqual(all);
  for (const perPage of [1, 2, 3, 4]) {
    const read: number[] = [];
    for (let key: string | undefined, pages = 0; pages === 0 || key !== undefined; pages++) {
      const page = list(perPage, key);
      if (page === 'seekUnknown') throw new Error(page);
      read.push(...page.grants);
      key = page.lastKey;
      expect(page.grants.length).toBeLessThanOrEqual(perPage);
    }
    expect(read).toEqual(all.grants);
  }
  expect(useCases.limits(HEAD_END)).toMatchObject({ liveGrants: 2, waitingGrants: 2 });
  expect(useCases.list(HEAD_END, { device, perPage: 1 })).toMatchObject({ total: 2, grants: [{ status: 'WAITING' }] });

  const first = list(1);
  await gateway.bindings.bind(M2, inner('10.20.0.9'));
  const rest = list(9, first === 'seekUnknown' ? '' : first.lastKey);
  expect(rest).toEqual({ grants: [5683, 7000, 7001, 7002], total: 4 });
});

test('on one device: by any of its identifiers; a device that nobody knows has none', async () => {
  const gateway = await TestGateway.started();
  const { useCases } = await served(gateway);
  await useCases.request(HEAD_END, ask());
  const on = (networkAccessIdentifier: string) =>
    useCases.list(HEAD_END, { device: { networkAccessIdentifier }, perPage: 9 });
  expect(on(M1)).toMatchObject({ grants: [{ devicePort: 5683 }], total: 1 });
  expect(on(M1.replace('meters', 'METERS'))).toMatchObject({ total: 1 });
  expect(on('nobody@meters.example')).toEqual({ grants: [], total: 0 });
});
