/**
 * Beside a real user plane: osmo-ggsn on the gateway's host, subscribers by
 * sgsnemu, accounting by radclient. The steps are the demo's
 * (`npm run demo -- --ggsn`), and throw what they should not have seen.
 */
import { afterAll, beforeAll, test } from 'vitest';
import { GGSN_STEPS } from '../demo/ggsn.ts';
import { Meters } from '../demo/meters.ts';

let meters: Meters;
beforeAll(async () => {
  meters = await Meters.open();
});
afterAll(() => meters?.close());

for (const { title, act } of GGSN_STEPS)
  test(title, async () => {
    await act(meters);
  });
