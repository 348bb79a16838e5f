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

say(`seed ${seed}`);
const gateway = await Gateway.start();
const summary = nothingYet();
const progress = (cases: number) => {
  if (cases % SHOWN_EVERY === 0) say(`${cases} cases, ${summary.packets} packets, all as the model says`);
};
try {
  await hold(gateway, { seed, cases: Number.POSITIVE_INFINITY, progress }, summary);
} catch (fault) {
  say(`\n${(fault as Error).message}`);
  process.exitCode = 1;
} finally {
  await gateway.close();
}
