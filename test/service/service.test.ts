/**
 * The service under a booted systemd, from the outside: packets of a granted
 * flow and of strangers are looked at after everything that can happen to it.
 * It is installed and set up by the very commands of the README's first hour.
 *
 * One machine for all tests, which tell one story in order.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Child, program, ROOT, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import { Machine } from './machine.ts';
import { DEVICE, readmeNetwork, SERVER } from './readme-network.ts';

const DEVICE_PORT = 5683;
const SHORT_MS = 300;
/** mtgate-closed looks every five seconds. */
const LOOKS_AGAIN_MS = 15_000;
/** Less than the unit's, and more than a start takes beside another file: the first sign of life comes behind it. */
const WATCHDOG_SECONDS = 8;
/** A start of the agent on a busy machine, and a restart by systemd behind it. */
const RESTART_MS = 30_000;

/** The README's commands, in order: where they are run, and what. */
const PAGE = Array.from(readFileSync(`${ROOT}README.md`, 'utf8').matchAll(/```sh (gateway|server)\n(.*?)```/gs)).map(
  ([, namespace = '', script = '']) => ({ namespace, script }),
);

/** What of it comes before the first rule. */
const SET_UP = PAGE.slice(0, 3).map(({ script }) => script);

let network: Network;
let machine: Machine;
let server: Probe;
let rogue: Probe;
let device: Probe;
/** The program on the device, which tells all that reaches it. */
let deviceHeard: Child;

beforeAll(async () => {
  network = readmeNetwork();
  machine = await Machine.boot(network, 'gateway');
  deviceHeard = await network.spawn(
    'device',
    program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6),
    {
      line: /^ready$/,
    },
  );
  await network.spawn('server', program('test/device.ts', '9000', SERVER.ipv4, SERVER.ipv6), {
    line: /^ready$/,
  });
  [server, rogue, device] = await Promise.all([
    Probe.start(network, 'server'),
    Probe.start(network, 'rogue'),
    Probe.start(network, 'device'),
  ]);
});
afterAll(async () => {
  await network.close();
});

/** Runs the next block of the page, which must begin as the test believes. */
async function page(begins: string): Promise<string> {
  const block = PAGE.shift();
  if (!block?.script.startsWith(begins)) throw new Error(`the page goes on with: ${block?.script}`);
  return (await machine.run(block.script, { namespace: block.namespace })).stdout;
}

/** No packet that the outside starts reaches a device, by whichever way somebody tries. */
async function nobodyElseGetsIn(granted?: Endpoint): Promise<void> {
  const tries: readonly Endpoint[] = [
    { address: DEVICE.ipv4, port: DEVICE_PORT },
    { address: '203.0.113.2', port: 20_000 },
    ...(granted ? [granted] : []),
  ];
  const ipv6 = { address: DEVICE.ipv6, port: DEVICE_PORT };
  const outcomes = await Promise.all([
    ...tries.map((to) => rogue.udp({ to, text: 'unsolicited', waitMs: SHORT_MS })),
    server.udp({ to: ipv6, text: 'unsolicited', waitMs: SHORT_MS }),
  ]);
  expect(outcomes).toEqual(outcomes.map(() => ({ outcome: 'silence' })));
  expect(deviceHeard.lines.filter((line) => line.includes('unsolicited'))).toEqual([]);
}

/** A device gets an answer to what it begins itself. */
async function devicesGetOut(address: string = SERVER.ipv4): Promise<void> {
  expect(await device.udp({ to: { address, port: 9000 } })).toMatchObject({ outcome: 'answer' });
}

/** And it gets none. */
async function devicesStayIn(): Promise<void> {
  const to = { address: SERVER.ipv4, port: 9000 };
  expect(await device.udp({ to, waitMs: SHORT_MS })).not.toMatchObject({ outcome: 'answer' });
}

interface Endpoint {
  readonly address: string;
  readonly port: number;
}

const forwarding = () => machine.ask('cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding');
const forwardChain = () => machine.ask('nft list chain inet mtgate forward');
const journal = (unit: string) => machine.ask(`journalctl --no-pager --output=cat --unit=${unit}`);
const agentPid = async () => Number(await machine.property('mtgate', 'MainPID'));
const state = () => machine.ask('systemctl is-active mtgate');

/** Resolves when the base of the agent stands, and not the closed table. */
const baseStands = () =>
  until('the base', async () => (await forwardChain()).includes('toward_inside') || undefined, RESTART_MS);

describe('installed', () => {
  test('without agent.yaml nothing is started, and it is said what comes next; the gateway is closed', async () => {
    expect(await forwarding()).toBe('0\n0');
    const said = await page('npm run install-service');
    expect(said).toContain('/etc/mtgate/agent.yaml is missing');
    expect(said).toContain('systemctl start mtgate');
    expect(await state()).toBe('inactive');
    expect(await forwarding()).toBe('1\n1');
    expect(await forwardChain()).toMatch(/hook forward priority filter; policy drop;\n\s*\}/);
    await nobodyElseGetsIn();
    await devicesStayIn();
  });

  test('its units have no fault that systemd finds, and little exposure', async () => {
    const units = '/usr/lib/systemd/system/mtgate.service /usr/lib/systemd/system/mtgate-closed.*';
    const { stdout, stderr } = await machine.run(`systemd-analyze verify --man=no ${units} nftables.service`);
    expect(stdout + stderr).toBe('');
    await machine.run('systemd-analyze security --offline=yes --threshold=20 mtgate.service');
  });

  test('its user may read what the operator writes, and others may not', async () => {
    expect(await machine.ask('stat --format="%n %a %U %G" /etc/mtgate /etc/mtgate/rules /sys/fs/bpf/mtgate')).toBe(
      '/etc/mtgate 750 root mtgate\n/etc/mtgate/rules 750 root mtgate\n/sys/fs/bpf/mtgate 700 mtgate mtgate',
    );
  });

  test('again, it changes nothing that the operator wrote', async () => {
    await machine.write('/etc/mtgate/rules/own.yaml', '# mine');
    await machine.run('npm run -s install-service');
    expect(await machine.ask('cat /etc/mtgate/rules/own.yaml')).toBe('# mine');
    await machine.run('rm /etc/mtgate/rules/own.yaml');
  });
});

describe('a start that cannot be', () => {
  /** Starts in vain; resolves with what the journal has of it. */
  async function startInVain(): Promise<string> {
    await machine.run('journalctl --rotate --quiet; journalctl --vacuum-time=1s --quiet; systemctl reset-failed');
    expect((await machine.run('systemctl start mtgate', { mayFail: true })).status).not.toBe(0);
    expect(await state()).toBe('failed');
    expect(await machine.property('mtgate', 'ExecMainStatus')).toBe('78');
    await nobodyElseGetsIn();
    await devicesStayIn();
    return journal('mtgate');
  }

  test('without agent.yaml', async () => {
    expect(await startInVain()).toMatch(/configInvalid\n\/etc\/mtgate\/agent\.yaml: ENOENT/);
  });

  test('with a broken agent.yaml', async () => {
    await machine.write('/etc/mtgate/agent.yaml', 'gateway: gw-1\noutsied: {}');
    expect(await startInVain()).toContain('/etc/mtgate/agent.yaml:2:1: unknown key "outsied"; did you mean "outside"?');
  });

  test('without the key, with a credential that the unit does not give, with a key that others can read', async () => {
    await page('cp /etc/mtgate/agent.yaml.example');
    await page('mkdir -p ~/mtc');
    await machine.run('cp /etc/mtgate/rules.example/meters.yaml /etc/mtgate/rules/; rm /etc/mtgate/api.key');
    expect(await startInVain()).toContain('certificateInvalid\ncredential:api.key is empty');

    const key = (written: string) => machine.run(`sed -i 's|key: .*api.key.*|key: ${written}|' /etc/mtgate/agent.yaml`);
    await key('credential:other-api.key');
    expect(await startInVain()).toContain('add LoadCredential=other-api.key:/etc/mtgate/other-api.key below [Service]');

    await machine.run('install --mode=0644 ~/mtc/api.key /etc/mtgate/api.key');
    await key('api.key');
    expect(await startInVain()).toMatch(/\/etc\/mtgate\/api\.key: .* \(mode 0644\): chmod 0600/);

    await machine.run('cp /etc/mtgate/agent.yaml.example /etc/mtgate/agent.yaml; chmod 0600 /etc/mtgate/api.key');
  });
});

describe('at work', () => {
  let granted: Endpoint;
  let flow: Session;

  /** The stream that runs over the grant since it was given has lost no packet up to now. */
  async function nothingLost(): Promise<void> {
    await flow.next();
    const numbers = flow.texts().map(Number);
    expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
  }
  async function stillAsItShouldBe(): Promise<void> {
    await nothingLost();
    await nobodyElseGetsIn(granted);
    await devicesGetOut();
  }

  test('the first rule, the first grant, who has what: the rest of the page', async () => {
    expect(await page('cp /etc/mtgate/rules.example')).toContain('closed');
    const grant = JSON.parse(await page('cd ~/mtc')) as { status: string; externalEndpoint: Endpoint };
    expect(grant.status).toBe('LIVE');
    granted = grant.externalEndpoint;
    flow = await Session.open(network, 'server', 'udp', granted);
    flow.say('stream');
    await stillAsItShouldBe();
    await devicesGetOut(SERVER.ipv6);
    expect(await page('mtgate grants')).toContain(`${granted.address}:${granted.port}`);
    const said = await page('cp /etc/mtgate/rules.example/never.yaml');
    expect(said).toMatch(/^ {2}rule \S+ added$/m);
    expect(said).toMatch(/^edition 2 is confirmed/m);
    expect(said).toMatch(/^2 .* root +apply +confirmed by root +no telnet, no web; /m);
    expect(await page('mtgate explain request --live')).toMatch(/: refused by no-web, deniedByRule /);
    await stillAsItShouldBe();
    await page('systemctl reload mtgate');
    await stillAsItShouldBe();
  });

  test('it has its own user, four capabilities, and its own folder of the BPF file system alone', async () => {
    const status = await machine.ask(
      `grep -E '^(Uid|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/${await agentPid()}/status`,
    );
    const four = ((1n << 12n) | (1n << 13n) | (1n << 38n) | (1n << 39n)).toString(16).padStart(16, '0');
    const uid = await machine.ask('id -u mtgate');
    expect(status.replace(/\t/g, ' ').split('\n')).toEqual([
      `Uid: ${uid} ${uid} ${uid} ${uid}`,
      `CapEff: ${four}`,
      `CapBnd: ${four}`,
      `CapAmb: ${four}`,
      'NoNewPrivs: 1',
    ]);
  });

  test('its group may use the mtgate command, and others may not', async () => {
    const asNobody = (groups: string) =>
      machine.run(`setpriv --reuid nobody --regid nogroup ${groups} mtgate grants --json`, { mayFail: true });
    expect(JSON.parse((await asNobody('--groups mtgate')).stdout)).toHaveLength(1);
    expect(await asNobody('--clear-groups')).toMatchObject({ status: 4, stdout: '' });
  });

  test('a reload with invalid devices fails and says where, as does an apply of invalid rules; nothing has changed', async () => {
    await machine.write('/etc/mtgate/rules/broken.yaml', 'sevrers: {}');
    const applied = await machine.run('mtgate apply --yes', { mayFail: true });
    expect(applied).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('broken.yaml:1:1: unknown key "sevrers"'),
    });
    await machine.run('chmod 0600 /etc/mtgate/rules/broken.yaml');
    const unreadable = await machine.run('mtgate apply --yes', { mayFail: true });
    expect(unreadable.stderr).toMatch(/broken\.yaml: uid \d+ may not read it: chown root:mtgate, chmod 0640/);
    await machine.run(
      'rm /etc/mtgate/rules/broken.yaml; cp -p /etc/mtgate/devices.yaml /root/; echo "devcies: []" >/etc/mtgate/devices.yaml',
    );
    expect((await machine.run('systemctl reload mtgate', { mayFail: true })).status).not.toBe(0);
    expect(await journal('mtgate')).toContain('devices.yaml:1:1: unknown key "devcies"');
    expect(await state()).toBe('active');
    await stillAsItShouldBe();
    await machine.run('cp -p /root/devices.yaml /etc/mtgate/; systemctl reload mtgate');
  });

  /** Sends the agent a signal; resolves with the process it went to. */
  async function signal(name: 'KILL' | 'STOP'): Promise<number> {
    const pid = await agentPid();
    if (pid === 0) throw new Error('no agent runs'); // and 0 would be this test's own process group
    await machine.run(`kill -${name} ${pid}`);
    return pid;
  }
  /** What systemd does when the agent ends or hangs; resolves when another one works. */
  async function replaced(former: number): Promise<void> {
    await until(
      'another agent',
      async () => ((await state()) === 'active' && ![former, 0].includes(await agentPid())) || undefined,
      RESTART_MS,
    );
  }

  test('killed, it is started again, and a granted flow has lost no packet', async () => {
    const former = await signal('KILL');
    await nobodyElseGetsIn(granted);
    await nothingLost();
    await replaced(former);
    await stillAsItShouldBe();
  });

  test('hung, it is killed by the watchdog and started again', async () => {
    const override = '/run/systemd/system/mtgate.service.d/watchdog.conf';
    await machine.write(override, `[Service]\nWatchdogSec=${WATCHDOG_SECONDS}`);
    await machine.run('systemctl daemon-reload; systemctl restart mtgate'); // a new limit counts from a start
    const former = await signal('STOP');
    await nobodyElseGetsIn(granted);
    await nothingLost();
    await replaced(former);
    expect(await journal('mtgate')).toContain(`Watchdog timeout (limit ${WATCHDOG_SECONDS}s)`);
    await stillAsItShouldBe();
    await machine.run(`rm ${override}; systemctl daemon-reload`); // and the old one from the next
  });

  test('installed anew, it is restarted, and a granted flow has lost no packet', async () => {
    const former = await agentPid();
    expect((await machine.run('npm run -s install-service')).stdout).toContain('mtgate is running');
    expect(await agentPid()).not.toBe(former);
    await stillAsItShouldBe();
  });

  test.each(['start', 'reload', 'restart', 'stop'])('nftables.service: %s', async (verb) => {
    // What Debian ships flushes the whole rule set: on start, reload and stop.
    await machine.run(`systemctl ${verb} nftables`);
    expect(await forwardChain()).toContain('hook forward');
    await nobodyElseGetsIn(granted);
    await nothingLost();
    await baseStands();
    await stillAsItShouldBe();
  });

  test('a sysctl that somebody changed is put right', async () => {
    await machine.run('echo 0 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv4/conf/eth0/send_redirects');
    await until(
      'both to be put right',
      async () => {
        const is = await machine.ask('cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/eth0/send_redirects');
        return is === '1\n0' || undefined;
      },
      LOOKS_AGAIN_MS,
    );
    await stillAsItShouldBe();
    const told = await journal('mtgate-closed');
    expect(told).toContain('/proc/sys/net/ipv4/ip_forward was 0, is 1 now');
    expect(told).not.toContain('Starting'); // that it looked, every few seconds, is not told
  });

  test('stopped, the gateway is closed; the grant runs on, for as long as the grace', async () => {
    await machine.run(
      "printf '\\ngate: { orphanGraceSeconds: 15 }\\n' >>/etc/mtgate/agent.yaml; systemctl restart mtgate",
    );
    await stillAsItShouldBe();
    await page('systemctl stop mtgate');
    expect(PAGE).toEqual([]);
    await stillAsItShouldBe();
    expect(await journal('mtgate')).toMatch(/"event":"stopped"/);
    await flow.quiet(500, 30_000);
    expect(await server.udp({ to: granted, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
    await nobodyElseGetsIn(granted);
  });

  test('a table that is gone while no agent runs is replaced by a closed one', async () => {
    await machine.run('nft delete table inet mtgate');
    await until(
      'the closed table',
      async () => (await forwardChain()).includes('policy drop') || undefined,
      LOOKS_AGAIN_MS,
    );
    await nobodyElseGetsIn(granted);
    await devicesStayIn();
  });

  test('where nft fails, forwarding is switched off, and on again where it works', async () => {
    await machine.run('nft delete table inet mtgate; mount --bind /bin/false /usr/sbin/nft');
    expect((await machine.run('systemctl start mtgate-closed', { mayFail: true })).status).not.toBe(0);
    expect(await forwarding()).toBe('0\n0');
    expect(await journal('mtgate-closed')).toContain('nft cannot put table inet mtgate: forwarding is switched off');
    await machine.run('umount /usr/sbin/nft; systemctl start mtgate-closed');
    expect(await forwarding()).toBe('1\n1');
    expect(await forwardChain()).toContain('policy drop');
  });
});

describe('uninstalled', () => {
  let said: string;

  test('the gateway is closed; what the operator wrote and the store are kept, and nothing else', async () => {
    await machine.run('systemctl start mtgate');
    said = (await machine.run('npm run -s uninstall-service')).stdout;
    expect(said).toContain('The gateway stays closed');
    await nobodyElseGetsIn();
    const places = '/usr/bin /usr/lib/systemd /usr/lib/sysusers.d /usr/lib/tmpfiles.d /etc/systemd';
    expect(await machine.ask(`find ${places} -name '*mtgate*'; ls -d /usr/lib/mtgate*`)).toBe('');
    expect(await machine.ask('ls /etc/mtgate/agent.yaml /var/lib/mtgate/mtgate.db')).toBe(
      '/etc/mtgate/agent.yaml\n/var/lib/mtgate/mtgate.db',
    );
    await machine.run('npm run -s uninstall-service');
  });

  test('what it says opens the gateway does', async () => {
    const steps = said.split('\n').filter((line) => /^ {2}(nft|ip|rm) /.test(line));
    expect(steps).toHaveLength(3);
    network.show({}, 'the gateway is opened on purpose');
    await machine.run(steps.join('\n'));
    const to = { address: DEVICE.ipv4, port: DEVICE_PORT };
    // The kernel lets go of the gate a moment after its last pin.
    await until('a stranger to get in', async () => {
      const { outcome } = await rogue.udp({ to, text: 'open', waitMs: SHORT_MS });
      return outcome === 'answer' || undefined;
    });
  });
});

test('booted with the service installed, the gateway is closed before the network is prepared, then at work', async () => {
  const another = readmeNetwork();
  try {
    // Installed while no systemd runs; what the boot is to make is taken away again.
    const written = [
      ...SET_UP,
      'cp /etc/mtgate/rules.example/meters.yaml /etc/mtgate/rules/',
      'rm -r /sys/fs/bpf/mtgate',
    ];
    const booted = await Machine.boot(another, 'gateway', written.join('\n'));
    expect(await booted.ask('systemctl is-active mtgate')).toBe('active');
    const lines = (await booted.ask('journalctl --no-pager --output=cat')).split('\n');
    const at = (event: RegExp) => lines.findIndex((line) => event.test(line));
    const order = [
      /^closed: put a table/,
      /ip_forward was 0, is 1 now/,
      /Reached target network-pre/,
      /"event":"ready"/,
    ].map(at);
    expect(order).not.toContain(-1);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
  } finally {
    await another.close();
  }
});
