import { expect, test } from 'vitest';
import { serverUseCases } from '../../agent/use-cases.ts';
import { ask, HEAD_END, M1, OTHER, TestGateway } from '../gateway.ts';

async function served(gateway: TestGateway) {
  const useCases = serverUseCases(gateway.ground, gateway.grants, gateway.extensions);
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
