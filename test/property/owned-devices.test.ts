/** Pages of an MTC user's devices: all of its own, each once, none of another's; by the real registry. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ExternalId } from '../../agent/core/words.ts';
import { devicesMatching, type Place } from '../../agent/directory/owned-devices.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import { fixedStart, matchesDevice, parseDevicePattern } from '../../agent/policy/patterns.ts';
import { IDENTITIES } from '../identities.ts';

const local = fc.string({ unit: fc.constantFrom('a', 'b', '1', '~', '!'), minLength: 1, maxLength: 3 });
const domain = fc.constantFrom('x.example', 'a.x.example', 'b.a.x.example', 'y.example', 'xx.example');
const pattern = fc.oneof(
  fc.tuple(fc.constantFrom('*', 'a*', '*1', 'a*1', 'ab'), domain).map((parts) => parts.join('@')),
  fc.tuple(fc.constantFrom('*', 'b*'), domain).map(([start, end]) => `${start}@*.${end}`),
  fc.constant('a*@*'),
);

test('by pages, whatever the patterns, devices and size of a page', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(
        fc.tuple(local, domain).map((parts) => parts.join('@') as ExternalId),
        { maxLength: 40 },
      ),
      fc.array(pattern, { maxLength: 4 }),
      fc.integer({ min: 1, max: 7 }),
      async (devices, texts, limit) => {
        const registry = openRegistry(':memory:', IDENTITIES);
        try {
          await registry.replaceFile(devices.map((externalId) => ({ externalId })));
          const parsed = texts.flatMap((text) => parseDevicePattern(text) ?? []);
          const patterns = parsed.map((one) => ({
            start: fixedStart(one.local.text),
            domain: one.domain,
            subdomains: one.subdomains,
            matches: (device: string) => matchesDevice(one, device),
          }));
          const seen: ExternalId[] = [];
          for (let place: Place | undefined, pages = 0; pages < 200; pages++) {
            const page = devicesMatching(patterns, registry, limit, place);
            expect(page.devices.length).toBeLessThanOrEqual(limit);
            seen.push(...page.devices);
            place = page.last;
            if (place === undefined) break;
          }
          const own = devices.filter((device) => parsed.some((one) => matchesDevice(one, device)));
          expect(seen.toSorted()).toEqual(own.toSorted());
        } finally {
          registry.close();
        }
      },
    ),
    { numRuns: 300 },
  );
});
