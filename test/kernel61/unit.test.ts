/**
 * The agent as a service that came up with its machine, on Linux 6.1, with
 * what the unit leaves it and no more: its own user, four capabilities. Run
 * inside the guest (run.ts), whose own network is the gateway's.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { API_PORT, type Body, DEVICE_NAME, DEVICE_PORT } from '../agent.ts';
import { Child, program, type Ready } from '../child.ts';
import { Probe, type Target } from '../probe.ts';
import { DEVICE, GATEWAY, ROGUE, SERVER } from '../standard-network.ts';
import { DEVICE_SIDE, HEAD_END, INSIDE, OUTSIDE, PDN } from './site.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const PROTOCOLS = ['udp', 'tcp'] as const;
/** How long a packet may be on its way here, where every instruction is emulated. */
const WAIT_MS = 10_000;
/** For what is not to be answered. That it did not arrive is seen at the device. */
const SHORT_MS = 500;

const execute = promisify(execFile);
const children: Child[] = [];

/** What a command prints. */
async function ask(file: string, ...args: readonly string[]): Promise<string> {
  return (await execute(file, args)).stdout.trim();
}
const property = (unit: string, name: string) => ask('systemctl', 'show', '--value', `--property=${name}`, unit);
const within = (namespace: string, command: readonly string[]) => ['ip', 'netns', 'exec', namespace, ...command];

async function spawn(namespace: string, command: readonly string[], ready: Ready): Promise<Child> {
  const child = new Child(within(namespace, command));
  children.push(child);
  return await child.ready(ready);
}

type Family = (typeof FAMILIES)[number];
type Protocol = (typeof PROTOCOLS)[number];

/** The external endpoint of a new grant for the head end, at its own address. */
async function granted(family: Family, protocol: Protocol): Promise<Target> {
  const wanted = {
    device: { networkAccessIdentifier: DEVICE_NAME },
    applicationServer: { address: SERVER[family] },
    protocol: protocol.toUpperCase(),
    devicePort: DEVICE_PORT,
    durationSeconds: 600,
  };
  const [file = '', ...args] = within(PDN, [
    ...['curl', '--silent', '--show-error', '--max-time', '60', '--interface', SERVER.ipv4],
    ...['--cacert', HEAD_END.ca, '--cert', HEAD_END.certificate, '--key', HEAD_END.key],
    ...['--json', JSON.stringify(wanted), `https://${GATEWAY.ipv4}:${API_PORT}/mobile-terminated-access/v1/grants`],
  ]);
  const body = JSON.parse(await ask(file, ...args)) as Body;
  expect(body).toMatchObject({ status: 'LIVE' });
  return body.externalEndpoint;
}

/** How many packets the gate denied for a reason. */
async function denied(reason: string): Promise<number> {
  const page = await ask('curl', '--silent', '--show-error', 'http://127.0.0.1:9464/metrics');
  return Number(new RegExp(`^mtgate_denied_packets_total\\{reason="${reason}"\\} (\\d+)$`, 'm').exec(page)?.[1]);
}

/** The programs of an interface's clsact filters, by the 15 letters that the kernel keeps of a name. */
async function filters(device: string, hook: 'ingress' | 'egress'): Promise<string[]> {
  const found = await ask('tc', '-json', 'filter', 'show', 'dev', device, hook);
  const entries = JSON.parse(found || '[]') as { options?: { bpf_name?: string } }[];
  return entries.flatMap(({ options }) => options?.bpf_name?.slice(0, 15) ?? []);
}

test('the kernel is 6.1', () => {
  expect(release()).toMatch(/^6\.1\./);
});

describe('from boot', () => {
  test('the gateway was closed before its interfaces came up', async () => {
    expect(await property('mtgate-closed.service', 'Result')).toBe('success');
    const at = async (unit: string, moment: string) => Number(await property(unit, `${moment}TimestampMonotonic`));
    expect(await at('kernel61-wires.service', 'ExecMainStart')).toBeGreaterThan(await at('sysinit.target', 'Active'));
  });

  test('the unit is active, and was never restarted', async () => {
    const journal = await ask('journalctl', '--unit=mtgate', '--lines=20', '--no-pager', '--output=cat');
    expect(await property('mtgate.service', 'ActiveState'), journal).toBe('active');
    expect(await property('mtgate.service', 'NRestarts'), journal).toBe('0');
  });

  test('it is a user of its own, with four capabilities and no more', async () => {
    const status = readFileSync(`/proc/${await property('mtgate.service', 'MainPID')}/status`, 'utf8');
    const field = (name: string) => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1];
    // CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_PERFMON 38, CAP_BPF 39
    const four = (2n ** 12n + 2n ** 13n + 2n ** 38n + 2n ** 39n).toString(16).padStart(16, '0');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
      expect([set, field(set)]).toEqual([set, four]);
    expect(field('Uid')).toBe(await ask('id', '--user', 'mtgate'));
    expect(field('NoNewPrivs')).toBe('1');
  });

  test('the gate hangs at both interfaces, by clsact', async () => {
    expect(await filters(OUTSIDE, 'ingress')).toEqual(['gate_outside_in']);
    expect(await filters(OUTSIDE, 'egress')).toEqual(['gate_outside_eg']);
    expect(await filters(INSIDE, 'ingress')).toEqual(['gate_inside_ing']);
  });
});

describe('packets', () => {
  let device: Child;
  let outside: Probe;
  const endpoints = new Map<`${Family} ${Protocol}`, Target>();
  const endpoint = (family: Family, protocol: Protocol) => endpoints.get(`${family} ${protocol}`) as Target;
  beforeAll(async () => {
    const peer = program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6);
    [device, outside] = await Promise.all([spawn(DEVICE_SIDE, peer, { line: /^ready$/ }), Probe.start({ spawn }, PDN)]);
    for (const family of FAMILIES)
      for (const protocol of PROTOCOLS) endpoints.set(`${family} ${protocol}`, await granted(family, protocol));
  });
  afterAll(() => Promise.all(children.map((child) => child.stop())));

  test.each(FAMILIES)('over %s, granted ones cross and unasked ones do not', async (family) => {
    const before = { wrongSource: await denied('wrongSource'), realmDestination: await denied('realmDestination') };
    const from = { address: SERVER[family] };
    for (const protocol of PROTOCOLS) {
      const to = endpoint(family, protocol);
      const rogue = { to, from: { address: ROGUE[family] }, text: 'unasked', waitMs: SHORT_MS };
      expect(await outside[protocol](rogue)).toEqual({ outcome: 'silence' });
      const direct = { to: { address: DEVICE[family], port: DEVICE_PORT }, from, text: 'unasked', waitMs: SHORT_MS };
      expect(await outside[protocol](direct)).toEqual({ outcome: 'silence' });
      // One wire, in order: what went before this one and is not there by now was dropped.
      const text = `granted over ${family} and ${protocol}`;
      expect(await outside[protocol]({ to, from, text, waitMs: WAIT_MS })).toMatchObject({ outcome: 'answer', text });
      expect(device.lines.filter((line) => line.includes('unasked'))).toEqual([]);
    }
    expect(await denied('wrongSource')).toBeGreaterThanOrEqual(before.wrongSource + 2);
    expect(await denied('realmDestination')).toBeGreaterThanOrEqual(before.realmDestination + 2);
  });

  test('systemctl restart takes over: a live grant loses no packet', async () => {
    const to = endpoint('ipv4', 'udp');
    const pid = await property('mtgate.service', 'MainPID');
    let restarting = true;
    const restart = ask('systemctl', 'restart', 'mtgate').finally(() => {
      restarting = false;
    });
    let crossed = 0;
    for (; restarting; crossed += 1) {
      const text = `packet ${crossed}`;
      const question = { to, from: { address: SERVER.ipv4 }, text, waitMs: WAIT_MS };
      expect(await outside.udp(question)).toMatchObject({ outcome: 'answer', text });
      await delay(50); // or the packets would take the processor from the agent that is to start
    }
    await restart;
    expect(crossed).toBeGreaterThan(1);
    expect(await property('mtgate.service', 'MainPID')).not.toBe(pid);
    expect(await filters(OUTSIDE, 'ingress')).toEqual(['gate_outside_in']);
    const after = { to, from: { address: SERVER.ipv4 }, text: 'after', waitMs: WAIT_MS };
    expect(await outside.udp(after)).toMatchObject({ outcome: 'answer', text: 'after' });
  });
});
