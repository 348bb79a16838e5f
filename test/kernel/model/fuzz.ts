/**
 * Gateway against model without an end, until Ctrl-C or the first difference:
 *
 *   npm run fuzz -- [--seed S]
 *
 * Prints its seed, what it has seen, and of a difference the smallest case.
 */
import { parseArgs } from 'node:util';
import { Gateway } from './gateway.ts';
import { hold } from './hold.ts';
import { nothingYet } from './trial.ts';

const { values } = parseArgs({ options: { seed: { type: 'string', default: String(Date.now() % 2 ** 31) } } });
const seed = Number(values.seed);
const say = (line: string) => process.stdout.write(`${line}\n`);
const SHOWN_EVERY = 20;

/** A piece that waits for its rest is not forgotten, and IPv4's ids come again: a new gateway, then. */
const CASES_A_GATEWAY = 200;

say(`seed ${seed}`);
const summary = nothingYet();
for (let done = 0; process.exitCode === undefined; done += CASES_A_GATEWAY) {
  const gateway = await Gateway.start();
  const progress = (cases: number) => {
    if (cases % SHOWN_EVERY === 0) say(`${done + cases} cases, ${summary.packets} packets, all as the model says`);
  };
  try {
    await hold(gateway, { seed: seed + done, cases: CASES_A_GATEWAY, progress }, summary);
  } catch (fault) {
    say(`\n${(fault as Error).message}`);
    process.exitCode = 1;
  } finally {
    await gateway.close();
  }
}
