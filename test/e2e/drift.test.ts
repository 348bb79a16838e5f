/**
 * What others do to the gateway behind the agent's back: it is noticed,
 * repaired, logged and counted, and closed in between. From the first test to
 * the last, somebody knocks at all that must stay closed; the last one looks
 * whether any of it arrived.
 */
import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BpfObject } from '../../agent/dataplane/bpf.ts';
import { attachTc, closeFd, openPinned, updateLink } from '../../agent/dataplane/tc.ts';
import { DEVICE_PORT, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import { within } from '../enter.ts';
import { GATE_OBJECT } from '../kernel/gate-stand.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, GATEWAY, REALM_PREFIX, SERVER, standardNetwork } from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
/** Of attachment.ts. */
const OUR_PLACE = { priority: 1, handle: 0x6d746761 };

describe.each(['tcx', 'clsact'] as const)('a gateway whose gate hangs by %s', (attach) => {
  let network: Network;
  let agent: TestAgent;
  let device: Child;
  let server: Probe;
  let knocking: Child;
  let foreign: BpfObject;
  let to: { readonly address: string; readonly port: number };
  /** Where the agent finds its tools: one can be taken away from it. */
  let tools: string;

  beforeAll(async () => {
    network = standardNetwork();
    agent = new TestAgent(network, { attach });
    for (const family of FAMILIES)
      await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
    tools = join(agent.folder, 'tools');
    mkdirSync(tools);
    for (const tool of ['sbin/nft', 'sbin/ip', 'bin/setpriv', 'bin/nsenter'])
      symlinkSync(`/usr/${tool}`, join(tools, basename(tool)));
    device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
      line: /^ready$/,
    });
    server = await Probe.start(network, 'server');
    await agent.start({ PATH: tools });
    to = (await agent.grant()).body.externalEndpoint;
    const closed = [...FAMILIES.map((family) => DEVICE[family]), to.address];
    knocking = await network.spawn('rogue', ['node', '-e', KNOCK, String(to.port), ...closed], { line: /^ready$/ });
    foreign = new BpfObject(GATE_OBJECT); // a program of somebody else
    foreign.load();
  });
  afterAll(async () => {
    foreign?.close();
    await network.close();
  });

  /** Does something, and waits until the agent has found that gap and repaired it; a grant then leads through. */
  async function repaired(kind: string, act: () => unknown): Promise<void> {
    const from = agent.daemon.lines.length;
    await act();
    await agent.daemon.line(new RegExp(`"kind":"${kind}".*"event":"gapFound"`), { from });
    await agent.daemon.line(new RegExp(`"kind":"${kind}".*"event":"gapRepaired"`), { from });
    expect(await server.udp({ to, from: { address: SERVER.ipv4 }, text: kind })).toMatchObject({ outcome: 'answer' });
    expect(agent.daemon.lines.slice(from).filter((line) => line.includes('tickFailed'))).toEqual([]);
  }
  const nft = (...words: readonly string[]) => network.run('gateway', ['nft', ...words]);

  // What becomes of these does not depend on how the gate hangs.
  if (attach === 'tcx') {
    test.each([
      ['a flushed rule set', 'baseMissing', 'flush ruleset'],
      ['a deleted table', 'baseMissing', 'delete table inet mtgate'],
      ['a flushed chain', 'baseChanged', 'flush chain inet mtgate toward_inside'],
      ['a deleted chain', 'baseChanged', 'delete chain inet mtgate input'],
      ['a deleted set element', 'baseChanged', 'delete element inet mtgate grants_ipv4 { 203.0.113.0/29 }'],
      ['an added set element', 'baseChanged', 'add element inet mtgate denied_ipv4 { 198.51.100.0/24 }'],
      ['an added rule', 'baseChanged', 'insert rule inet mtgate toward_inside accept'],
    ])('%s', async (_, kind, command) => {
      const before = await nft('--stateless', 'list', 'table', 'inet', 'mtgate');
      await repaired(kind, () => nft(command));
      expect((await nft('--stateless', 'list', 'table', 'inet', 'mtgate')).stdout).toBe(before.stdout);
    });

    test('a deleted rule', async () => {
      const { stdout } = await nft('--handle', 'list', 'chain', 'inet', 'mtgate', 'toward_inside');
      const handle = /counter packets \d+ bytes \d+ drop # handle (\d+)/.exec(stdout)?.[1] ?? '';
      await repaired('baseChanged', () => nft(`delete rule inet mtgate toward_inside handle ${handle}`));
    });

    test.each(['203.0.113.0/29', '203.0.113.8/29', '2001:db8:a::/64', '2001:db8:e::/64'])(
      '%s, no blackhole any more',
      async (prefix) => {
        await repaired('blackholeMissing', () =>
          network.run('gateway', ['ip', 'route', 'delete', 'blackhole', prefix, 'proto', '109']),
        );
      },
    );

    test('a changed setting of the kernel: an alarm for each change, and the status', async () => {
      const set = (name: string, value: number) =>
        network.run('gateway', ['sh', '-c', `echo ${value} > /proc/sys/net/${name}`]);
      const alarms = (name: string) => agent.logged('sysctlChanged').filter((one) => one['name'] === `net/${name}`);
      const wrong = async () => (await agent.status()).wrongSysctls;
      await until('no setting that is wrong', async () => ((await wrong()).length === 0 ? true : undefined));
      const settings = [
        ['ipv4/ip_forward', 0, 1],
        ['ipv4/conf/outside/send_redirects', 1, 0],
        ['ipv4/conf/inside/proxy_arp', 1, 0],
        ['ipv4/conf/all/rp_filter', 1, 0],
      ] as const;
      for (const [name, value, right] of settings) {
        await set(name, value);
        await until(`an alarm for ${name}`, () => (alarms(name).length === 1 ? true : undefined));
        expect(alarms(name)[0]).toMatchObject({ value: String(value), expected: String(right) });
        // Switched off, forwarding lets the kernel take redirects, which is wrong too.
        expect(await wrong()).toContain(`net/${name} is ${value}, not ${right}`);
        await set(name, right);
        await until(`${name} as it was`, async () => ((await wrong()).length === 0 ? true : undefined));
        expect(alarms(name)).toHaveLength(1);
      }
      expect(await server.udp({ to, from: { address: SERVER.ipv4 } })).toMatchObject({ outcome: 'answer' });
    });
  }

  describe.each([
    ['outside', 'outsideIngress', 'ingress'],
    ['outside', 'outsideEgress', 'egress'],
    ['inside', 'insideIngress', 'ingress'],
    ['inside', 'insideEgress', 'egress'],
  ] as const)('at %s, %s', (name, hook, point) => {
    const ifindex = () => network.link('gateway', name).ifindex;

    test('taken away', async () => {
      const command =
        attach === 'tcx'
          ? `rm ${agent.bpffs}/links/${hook}-${ifindex()}`
          : `tc filter del dev ${name} ${point} prio ${OUR_PLACE.priority}`;
      await repaired('gateMissing', () => network.run('gateway', ['sh', '-c', command]));
    });

    if (attach === 'clsact')
      test('with its qdisc deleted', async () => {
        await repaired('gateMissing', () => network.run('gateway', ['tc', 'qdisc', 'del', 'dev', name, 'clsact']));
      });

    test('replaced by another program', async () => {
      const theirs = foreign.programFd('gate_outside_egress');
      await repaired('gateReplaced', () =>
        within(network, 'gateway', () => {
          if (attach === 'clsact') return attachTc({ ifindex: ifindex(), point, ...OUR_PLACE }, theirs, true);
          const link = openPinned(`${agent.bpffs}/links/${hook}-${ifindex()}`);
          updateLink(link, theirs);
          closeFd(link);
        }),
      );
    });
  });

  test('what cannot be seen counts as open: no grant, until it can', async () => {
    const from = agent.daemon.lines.length;
    rmSync(join(tools, 'nft'));
    await nft('add table inet another'); // nft is needed only where somebody changed something
    await agent.daemon.line(/"kind":"notSeen","gap":".*nft cannot be run.*"event":"gapFound"/, { from });
    const refused = await agent.grant({ devicePort: 7001 });
    expect(refused).toMatchObject({ status: 503, body: { code: 'UNAVAILABLE' } });
    expect(await agent.refusal(refused.body)).toMatchObject({ reason: 'gatewayNotReady', why: /nft cannot be run/ });
    expect(await agent.status()).toMatchObject({
      closed: false,
      gap: expect.stringContaining('nft cannot be run'),
    });
    symlinkSync('/usr/sbin/nft', join(tools, 'nft'));
    await agent.daemon.line(/"kind":"notSeen".*"event":"gapRepaired"/, { from });
    const { status, body } = await agent.grant({ devicePort: 7001 });
    expect(status).toBe(201);
    await agent.curl('DELETE', `/grants/${body.grantId}`);
  });

  test('all of it was counted by its kind, and nothing that knocked came in', async () => {
    const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
    const gaps = Object.fromEntries(
      Array.from(stdout.matchAll(/^mtgate_gaps_total\{kind="(\w+)"\} (\d+)$/gm), ([, kind, count]) => [kind, count]),
    );
    expect(gaps).toEqual(
      attach === 'tcx'
        ? {
            baseMissing: '2',
            baseChanged: '6',
            blackholeMissing: '4',
            gateMissing: '4',
            gateReplaced: '4',
            notSeen: '1',
          }
        : { gateMissing: expect.stringMatching(/^(8|9|1[0-2])$/), gateReplaced: '4', notSeen: '1' },
    );
    knocking.say('stop');
    expect(Number((await knocking.line(/^sent /)).slice(5))).toBeGreaterThan(500);
    expect(device.lines.filter((line) => line.includes('knock'))).toEqual([]);
  });
});

/** Knocks at addresses and a port, every few milliseconds, until told to stop; then says how often. */
const KNOCK = `
const { createSocket } = require('node:dgram');
const [port, ...closed] = process.argv.slice(1);
const sockets = { udp4: createSocket('udp4'), udp6: createSocket('udp6') };
for (const socket of Object.values(sockets)) socket.on('error', () => {});
let sent = 0;
const timer = setInterval(() => {
  for (const to of closed)
    for (const at of [port, '${DEVICE_PORT}'])
      sockets[to.includes(':') ? 'udp6' : 'udp4'].send('knock', at, to, (error) => { if (!error) sent++; });
}, 5);
process.stdin.on('data', () => { clearInterval(timer); console.log('sent ' + sent); });
console.log('ready');
`;
