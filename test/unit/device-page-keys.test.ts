/** Where a page of an MTC user's devices ends is at whatever device was looked at last: it tells nothing of another's. */
import { afterEach, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { CertificateId, ExternalId, MtcUserAsker, MtcUserName } from '../../agent/core/words.ts';
import { DeskClerk } from '../../agent/use-cases/desk-clerk.ts';
import { mtcUserUseCases } from '../../agent/use-cases/mtc-user.ts';
import { DevicePageKeys } from '../../agent/use-cases/page-keys.ts';
import { TestGateway } from '../gateway.ts';
import { digest } from '../rules.ts';

/** Two tenants in one domain, so that a page of the one looks at devices of the other. */
const RULES = `
servers:
  head-end: { certificates: [{ uri: "urn:mtc:head-end" }], sources: [198.51.100.0/24] }
mtcUsers:
  acme: { certificates: [{ uri: "urn:mtc-user:acme" }], devices: ["*7@fleet.example"], authorises: [head-end] }
  rival: { certificates: [{ uri: "urn:mtc-user:rival" }], devices: ["*8@fleet.example"], authorises: [head-end] }
`;
const who = (name: string): MtcUserAsker => ({
  name: name as MtcUserName,
  certificate: 'ca:9' as CertificateId,
  correlator: 'c-9',
  requestAddress: address('127.0.0.1'),
});
const ACME = who('acme');

/** More than are looked at for one page. */
const FOREIGN = 10_100;

let gateway: TestGateway;
afterEach(() => gateway.registry.close());

async function useCases() {
  gateway = new TestGateway();
  const foreign = Array.from({ length: FOREIGN }, (_, i) => `pump${String(i).padStart(6, '0')}8@fleet.example`);
  const devices = [...foreign, 'zz7@fleet.example', 'zzz8@fleet.example'];
  await gateway.start(
    RULES,
    devices.map((externalId) => ({ device: { externalId: externalId as ExternalId }, bindings: [] })),
  );
  const { ground, grants, registry, desk } = gateway;
  return mtcUserUseCases(ground, grants, registry, new DeskClerk(desk, ground, digest));
}

function bytesOf(key: string | undefined): string {
  return Buffer.from(key ?? '', 'base64url').toString('latin1');
}

describe('a page that ends at a device of another MTC user', () => {
  test('names it nowhere, and is read on from', async () => {
    const { devices } = await useCases();
    const first = devices(ACME, 100);
    if (first === 'seekUnknown') throw new Error(first);
    expect(first.items).toEqual([]);
    expect(first.lastKey).toBeDefined();
    expect(bytesOf(first.lastKey)).not.toMatch(/pump|fleet|8@/);
    const second = devices(ACME, 100, first.lastKey);
    expect(second).toEqual({ items: [{ device: 'zz7@fleet.example', bound: false }] });
  });

  test('has no key that another MTC user, or somebody without a key, can make use of', async () => {
    const { devices } = await useCases();
    const first = devices(ACME, 100);
    if (first === 'seekUnknown' || first.lastKey === undefined) throw new Error('no key');
    const named = Buffer.from('zz@fleet.example').toString('base64url');
    const sealedElsewhere = new DevicePageKeys().seal(ACME.name, { domain: 'fleet.example', device: '' });
    expect(devices(who('rival'), 100, first.lastKey)).toBe('seekUnknown');
    for (const seek of [named, sealedElsewhere, first.lastKey.slice(0, -4), `${first.lastKey}AAAA`])
      expect(devices(ACME, 100, seek)).toBe('seekUnknown');
  });
});

describe('a key', () => {
  const keys = new DevicePageKeys();
  const longest = { domain: 'd'.repeat(253), device: `${'x'.repeat(64)}@${'d'.repeat(253)}` };

  test.each([{ domain: 'x.example', device: '' }, { domain: 'x.example', device: '~!@x.example' }, longest])(
    'stands for the place it was made of, and is as long as any other: %o',
    (place) => {
      const key = keys.seal(ACME.name, place);
      expect(keys.open(ACME.name, key)).toEqual(place);
      expect(keys.open('rival' as MtcUserName, key)).toBeUndefined();
      expect(key).toHaveLength(keys.seal(ACME.name, { domain: 'a', device: 'b@a' }).length);
      expect(key.length).toBeLessThanOrEqual(512); // what the contract takes
    },
  );

  test('tells not even whether two pages end at the same place', () => {
    expect(keys.seal(ACME.name, longest)).not.toBe(keys.seal(ACME.name, longest));
  });
});
