/**
 * Model equals kernel: random policies, grants and packets through a real
 * gateway, gate and base together. Of each packet the verdict, its reason and
 * its bytes are those of the model, and so is what `explain packet` says.
 *
 * The seed stands in the test's name; MODEL_SEED=... runs one again, and `npm
 * run fuzz` goes on without an end.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { drawUntil } from '../../draws.ts';
import { Gateway } from './gateway.ts';
import { hold } from './hold.ts';
import { nothingYet } from './trial.ts';

const CASES = 20;
const REACHED = 2000;
const seed = Number(process.env['MODEL_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

/** Worlds in which one of these never comes prove too little. */
const OUTCOMES = [
  ...['pass grant', 'pass base', 'allow filter', 'a flow begins', 'held', 'host', 'expired'],
  ...['drop base', 'drop filter', 'drop noGrant', 'drop grantEnded', 'drop wrongSource', 'drop wrongRemote'],
  ...['drop realmDestination', 'drop spoofedSource', 'drop deviceToDevice', 'drop gatewayService'],
  ...['drop unauthorisedTrigger', 'drop fragment', 'drop headerOptions', 'drop hopLimit', 'drop tombstone'],
];

let gateway: Gateway;
beforeAll(async () => {
  gateway = await Gateway.start();
});
afterAll(() => gateway.close());

test(`model and kernel agree (seed ${seed})`, { timeout: 300_000 }, async () => {
  const summary = nothingYet();
  const missing = () => OUTCOMES.filter((outcome) => !summary.outcomes.has(outcome));
  await drawUntil(seed, (one) => hold(gateway, { seed: one, cases: CASES }, summary), missing);
  // Each of these was counted by the gate in the kernel.
  expect(summary.packets).toBeGreaterThanOrEqual(REACHED);
  expect(summary.walked).toBeGreaterThan(REACHED / 10);
});
