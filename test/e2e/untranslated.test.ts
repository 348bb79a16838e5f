/**
 * Grants without translation, in real packets: a server inside the private
 * realm (`plant`, with nat: none; TS 23.221 B.2.3), and a realm whose devices
 * are known outside by their own addresses. The head end has grants that are
 * translated in the first, and none that are in the second.
 *
 * The network's core has routes to both realms, so that it is the gateway that
 * closes them.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList, DenialRow } from '../../agent/api/denial-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { type Body, DEVICE_NAME, DEVICE_PORT, DEVICES, RULES, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe, type Target } from '../probe.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  GATEWAY,
  INNER_GATEWAY,
  INSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  SERVER_SECOND,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const PROTOCOLS = ['udp', 'tcp'] as const;
/** A device on addresses of its own, and its realm. */
const OWN = { name: 'm2@meters.example', ipv4: '203.0.113.66', ipv6: '2001:db8:20::2' } as const;
const OWN_PREFIX = { ipv4: '203.0.113.64/26', ipv6: '2001:db8:20::/48' } as const;
const OWN_GATEWAY = { ipv4: '203.0.113.65', ipv6: '2001:db8:20::1' } as const;
const OWN_INSIDE = 'own';
const SHORT_MS = 300;

/** The stranger's certificate and address are the plant's here. */
const PLANT_RULES = RULES.replace(
  /stranger: .*\n(.*\n) *sources: .*\n/,
  `stranger:\n$1    sources: [${ROGUE.ipv4}/32, "${ROGUE.ipv6}/128"]\n    nat: none\n`,
)
  .replace('authorises: [head-end]', 'authorises: [head-end, stranger]')
  .replace('servers: [head-end], devices', 'servers: [head-end, stranger], devices');

const inside = (
  name: string,
  link: string,
  gateway: typeof INNER_GATEWAY | typeof OWN_GATEWAY,
  host: typeof DEVICE | typeof OWN,
  lengths: readonly [number, number],
) => ({
  namespace: {
    [name]: {
      routes: FAMILIES.flatMap((family) => [
        `${gateway[family]} dev ${UPLINK}${family === 'ipv4' ? ' scope link' : ''}`,
        `default via ${gateway[family]} dev ${UPLINK}`,
      ]),
    },
  },
  link: [
    {
      namespace: 'gateway',
      interface: link,
      addresses: [`${gateway.ipv4}/${lengths[0]}`, `${gateway.ipv6}/${lengths[1]}`],
    },
    { namespace: name, interface: UPLINK, addresses: [`${host.ipv4}/32`, `${host.ipv6}/128`] },
  ] as const,
});

describe('without translation', () => {
  let network: Network;
  let agent: TestAgent;
  let onDevice: Child;
  let onOwn: Child;
  let atServer: Child;
  let device: Probe;
  let own: Probe;
  let server: Probe;
  let plant: Probe;

  beforeAll(async () => {
    const realms = [
      inside('device', INSIDE, INNER_GATEWAY, DEVICE, [16, 48]),
      inside('owner', OWN_INSIDE, OWN_GATEWAY, OWN, [26, 48]),
    ];
    network = standardNetwork({
      namespaces: Object.assign({}, ...realms.map((one) => one.namespace)),
      links: realms.map((one) => one.link),
    });
    for (const family of FAMILIES) {
      network.show({ source: OWN[family] }, 'a device on an address of its own is known by it');
      network.show({ source: DEVICE[family], to: ROGUE[family] }, 'the plant is a server inside the realm');
    }
    for (const family of FAMILIES)
      for (const prefix of [REALM_PREFIX[family], OWN_PREFIX[family]])
        await network.run('wan', ['ip', 'route', 'add', prefix, 'via', GATEWAY[family]]);
    const bindings = FAMILIES.map((family) => `{ realm: public, address: "${OWN[family]}" }`).join(', ');
    agent = new TestAgent(network, { rules: PLANT_RULES, devices: `${DEVICES}    bindings: [${bindings}]\n` });
    const yaml = readFileSync(agent.configFile, 'utf8');
    const realm = `  - { realm: public, interface: ${OWN_INSIDE}, prefixes: [${OWN_PREFIX.ipv4}, "${OWN_PREFIX.ipv6}"], nat: none }\n`;
    agent.write('agent.yaml', yaml.replace(/\napi:/, `\n${realm}api:`));
    const peer = (namespace: string, host: { readonly ipv4: string; readonly ipv6: string }) =>
      network.spawn(namespace, program('test/device.ts', String(DEVICE_PORT), host.ipv4, host.ipv6), {
        line: /^ready$/,
      });
    [onDevice, onOwn, atServer] = await Promise.all([
      peer('device', DEVICE),
      peer('owner', OWN),
      peer('server', SERVER),
    ]);
    [device, own, server, plant] = await Promise.all(
      ['device', 'owner', 'server', 'rogue'].map((namespace) => Probe.start(network, namespace)) as [
        Promise<Probe>,
        Promise<Probe>,
        Promise<Probe>,
        Promise<Probe>,
      ],
    );
    await agent.start();
    await agent.daemon.line(/"event":"inspectorSees"/);
  });
  afterAll(() => network.close());

  /** A grant of the head end's, or of the plant's. */
  async function granted(
    who: 'head-end' | 'plant',
    name: string,
    protocol: (typeof PROTOCOLS)[number],
    family: (typeof FAMILIES)[number],
  ): Promise<Body> {
    const address = (who === 'plant' ? ROGUE : SERVER)[family];
    const { status, body } = await agent.grant(
      {
        device: { networkAccessIdentifier: name },
        protocol: protocol.toUpperCase(),
        applicationServer: { address },
      },
      who === 'plant' ? { as: agent.stranger, from: 'rogue' } : {},
    );
    expect({ status, body }).toMatchObject({ status: 201 });
    return body;
  }

  const giveBack = ({ grantId }: Body, who: 'head-end' | 'plant') =>
    agent.curl('DELETE', `/grants/${grantId}`, who === 'plant' ? { as: agent.stranger, from: 'rogue' } : {});

  /** The first denial that is as it should be. */
  function denial(like: Partial<DenialRow>): Promise<DenialRow> {
    return until(JSON.stringify(like), async () => {
      const socket = `${agent.folder}/mtgate.sock`;
      const { denials } = await call<DenialList>({ socket }, 'GET', '/denials?limit=5000');
      return denials.find((one) => Object.entries(like).every(([key, value]) => one[key as keyof DenialRow] === value));
    });
  }

  const at = (address: string): Target => ({ address, port: DEVICE_PORT });
  const written = ({ address, port }: Target) =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;

  /** Asks as the far end; the device must see this very address, and its answer come from its own. */
  async function passes(
    probe: Probe,
    onFarSide: Child,
    protocol: (typeof PROTOCOLS)[number],
    from: string,
    to: Target,
    text: string,
  ): Promise<void> {
    const asked = await probe[protocol]({ to, from: { address: from }, text });
    expect(asked).toMatchObject({ outcome: 'answer', text });
    const line = await onFarSide.line(new RegExp(` ${text}$`));
    const { localPort } = asked as { localPort: number };
    expect(line).toBe(`${protocol} ${written({ address: from, port: localPort })} ${written(to)} ${text}`);
  }

  async function silent(probe: Probe, question: Parameters<Probe['udp']>[0], protocol: 'udp' | 'tcp' = 'udp') {
    expect(await probe[protocol]({ ...question, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
  }

  /** A flow that runs is cut both ways by the end of its grant. */
  async function endsWith(
    grant: Body,
    who: 'head-end' | 'plant',
    onFarSide: Child,
    protocol: 'udp' | 'tcp',
  ): Promise<void> {
    const namespace = who === 'plant' ? 'rogue' : 'server';
    const session = await Session.open(network, namespace, protocol, grant.externalEndpoint);
    session.say('stream');
    await session.next();
    await giveBack(grant, who);
    await session.quiet();
    // Cut, it would be denied two hundred times a second, and each denial looked for here takes its chance among them.
    onFarSide.say('stop');
    const seen = onFarSide.lines.length;
    session.say('after the end');
    await silent(who === 'plant' ? plant : server, { to: grant.externalEndpoint });
    expect(onFarSide.lines.slice(seen).filter((line) => line.includes('after the end'))).toEqual([]);
    await session.stop();
  }

  describe.each(FAMILIES)('%s', (family) => {
    describe.each(PROTOCOLS)('%s', (protocol) => {
      test('a server inside the private realm reaches the device at its own endpoint, both ways unchanged, until the end', async () => {
        const grant = await granted('plant', DEVICE_NAME, protocol, family);
        expect(grant.externalEndpoint).toEqual(at(DEVICE[family]));
        await passes(plant, onDevice, protocol, ROGUE[family], grant.externalEndpoint, `plant ${family} ${protocol}`);
        await endsWith(grant, 'plant', onDevice, protocol);
      });

      test("a server's grants beside it go on being translated", async () => {
        const own = await granted('plant', DEVICE_NAME, protocol, family);
        const grant = await granted('head-end', DEVICE_NAME, protocol, family);
        expect(grant.externalEndpoint.address).not.toBe(DEVICE[family]);
        const text = `translated ${family} ${protocol}`;
        expect(await server[protocol]({ to: grant.externalEndpoint, text })).toMatchObject({ outcome: 'answer', text });
        await giveBack(own, 'plant');
        expect(await server[protocol]({ to: grant.externalEndpoint })).toMatchObject({ outcome: 'answer' });
        await giveBack(grant, 'head-end');
      });

      test('a device on addresses of its own is reached there, until the end', async () => {
        const grant = await granted('head-end', OWN.name, protocol, family);
        expect(grant.externalEndpoint).toEqual(at(OWN[family]));
        await passes(server, onOwn, protocol, SERVER[family], grant.externalEndpoint, `own ${family} ${protocol}`);
        await endsWith(grant, 'head-end', onOwn, protocol);
      });

      test('it begins flows with its own address', async () => {
        const text = `begun ${family} ${protocol}`;
        await passes(own, atServer, protocol, OWN[family], at(SERVER[family]), text);
      });

      test('nobody else reaches it, and that is told its MTC user', async () => {
        const seen = onOwn.lines.length;
        await silent(plant, { to: at(OWN[family]) }, protocol);
        const target = `${protocol} ${written(at(OWN[family]))}`;
        expect(await denial({ target, reason: 'unsolicited', source: ROGUE[family] })).toMatchObject({
          mtcUser: 'acme',
          device: OWN.name,
        });
        expect(onOwn.lines.slice(seen)).toEqual([]);
      });
    });

    test("of the server's class only the granted address reaches a device at its own endpoint", async () => {
      const grant = await granted('head-end', OWN.name, 'udp', family);
      await silent(server, { to: grant.externalEndpoint, from: { address: SERVER_SECOND[family] } });
      const target = `udp ${written(grant.externalEndpoint)}`;
      const row = await denial({ target, reason: 'wrongSource', source: SERVER_SECOND[family] });
      expect(row).toMatchObject({ mtcUser: 'acme', device: OWN.name, grant: grant.grantId });
      await giveBack(grant, 'head-end');
    });

    test('what does not fit the way to the device is told to the plant, in the name of the device', async () => {
      const grant = await granted('plant', DEVICE_NAME, 'udp', family);
      const width = async () =>
        (await network.run('rogue', ['ip', 'route', 'get', DEVICE[family]])).stdout.match(/mtu (\d+)/)?.[1];
      expect(await width()).toBeUndefined();
      await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'mtu', '1400']);
      try {
        // The gate hears of it within a second; a datagram of 1,450 bytes and more fits until then.
        const told = await until('the plant is told', async () => {
          await plant.udp({ to: grant.externalEndpoint, text: 'x'.repeat(1450), waitMs: SHORT_MS });
          return width();
        });
        expect(told).toBe('1400');
      } finally {
        await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'mtu', '1500']);
        await network.run('rogue', ['ip', family === 'ipv4' ? '-4' : '-6', 'route', 'flush', 'cache']);
        await giveBack(grant, 'plant');
      }
    });

    test("the plant's grant opens the private realm to nobody else", async () => {
      const grant = await granted('plant', DEVICE_NAME, 'udp', family);
      const seen = onDevice.lines.length;
      await silent(server, { to: at(DEVICE[family]) });
      await denial({
        target: `udp ${written(at(DEVICE[family]))}`,
        reason: 'realmDestination',
        source: SERVER[family],
      });
      await silent(plant, { to: { address: DEVICE[family], port: DEVICE_PORT + 1 } });
      await denial({
        target: `udp ${written({ address: DEVICE[family], port: DEVICE_PORT + 1 })}`,
        reason: 'realmDestination',
        source: ROGUE[family],
      });
      expect(onDevice.lines.slice(seen)).toEqual([]);
      await giveBack(grant, 'plant');
    });

    test('a device of the private realm is hidden as ever', async () => {
      const text = `hidden ${family}`;
      expect(await device.udp({ to: at(SERVER[family]), text })).toMatchObject({ outcome: 'answer' });
      expect(await atServer.line(new RegExp(` ${text}$`))).not.toContain(DEVICE[family]);
    });
  });

  test('two servers have the same endpoint at once, each for itself', async () => {
    const [one, other] = [
      await granted('head-end', OWN.name, 'udp', 'ipv4'),
      await granted('plant', OWN.name, 'udp', 'ipv4'),
    ];
    expect(other.externalEndpoint).toEqual(one.externalEndpoint);
    await passes(server, onOwn, 'udp', SERVER.ipv4, one.externalEndpoint, 'of the head end');
    await passes(plant, onOwn, 'udp', ROGUE.ipv4, other.externalEndpoint, 'of the plant');
    await giveBack(one, 'head-end');
    await silent(server, { to: one.externalEndpoint });
    await passes(plant, onOwn, 'udp', ROGUE.ipv4, other.externalEndpoint, 'of the plant alone');
    await giveBack(other, 'plant');
  });
});
