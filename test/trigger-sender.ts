/**
 * The gateway's delivery of triggers, as the daemon has it, in the gateway's
 * namespace beside the daemon's gate and base:
 *
 *   tsx test/trigger-sender.ts AGENT-YAML
 *
 * It prints `ready`, and for each line `NUMBER ADDRESS PORT PAYLOAD` a line
 * `NUMBER OUTCOME`; for `reading` what came to the source port so far.
 */
import { createInterface } from 'node:readline';
import { address } from '../agent/core/net.ts';
import { loadConfig } from '../agent/files/operator-files.ts';
import { systemClock, systemRandom } from '../agent/host.ts';
import { openDelivery } from '../agent/triggers/trigger-source.ts';
import { KeptLog } from './clock.ts';

const config = loadConfig(process.argv[2] ?? '', () => {});
const delivery = openDelivery(config, { clock: systemClock, random: systemRandom, log: new KeptLog() });
const [{ realm } = { realm: '' as never }] = config.inside;
const never = new AbortController().signal;

createInterface({ input: process.stdin }).on('line', async (line) => {
  const [number = '', host = '', port, ...payload] = line.split(' ');
  if (number === 'reading') {
    process.stdout.write(`reading ${JSON.stringify(delivery?.reading())}\n`);
    return;
  }
  const to = { inner: { realm, address: address(host) }, port: Number(port) };
  const outcome = await delivery?.deliver(to, Buffer.from(payload.join(' ')), never);
  process.stdout.write(`${number} ${outcome}\n`);
});
process.stdout.write('ready\n');
